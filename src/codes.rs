//! The stable codes of everything that a user may be told is wrong: one table. Their explanations are sections of
//! docs/errors.md, which the program carries along. Knows nothing of where an error comes from.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// The page that explains all of them.
const PAGE: &str = include_str!("../docs/errors.md");

/// Number, name and title of each code. A number is never used for something else, nor a code taken away once released.
macro_rules! codes {
    ($($number:literal $name:ident $title:literal,)*) => {
        /// What is wrong. Shown as `TRK0401`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = $title] $name,)*
        }

        impl Code {
            /// All codes, by number.
            pub const ALL: &[Code] = &[$(Code::$name,)*];

            /// What the code says, in one line.
            pub fn title(self) -> &'static str {
                match self { $(Code::$name => $title,)* }
            }

            /// Whether it is about reaching a server.
            pub fn is_of_connection(self) -> bool {
                self.as_str().starts_with("TRK03")
            }

            /// As it is shown.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => concat!("TRK", $number),)* }
            }
        }
    };
}

codes! {
    // The project's files.
    "0101" ProjectFolder "the project's folder can't be read",
    "0102" NoProjectFile "the folder has no trucker.yml",
    "0103" NoPipeline "the project has no pipeline",
    "0104" FileUnreadable "a file can't be read",
    "0105" TwoConfigFiles "two configuration files stand side by side",
    "0106" FileSyntax "a configuration file is no valid YAML or JSON",
    "0107" YamlFeature "a configuration file uses YAML that isn't read",
    "0108" FileEmpty "a file is empty",
    "0109" UnknownKey "a key isn't known",
    "0110" MissingKey "a key is missing",
    "0111" Twice "something is given twice",
    "0112" Shape "a value has the wrong shape",
    "0113" Value "a value isn't possible",
    "0114" Both "two keys exclude each other",
    "0115" UnknownConnection "there is no connection of that name",
    "0116" Adapter "a connection's adapter can't do this",
    "0117" FeedsItself "a pipeline would feed itself",
    "0118" TruncateUnsaid "what TRUNCATE does must be said",
    "0119" TruncateNothing "TRUNCATE has nothing to empty",
    "0120" TwoConnections "one database is read through two connections",
    "0121" UnusedFile "a file isn't used",
    "0122" NoConfigFile "a folder with SQL files is no pipeline",
    "0123" TruncateFile "truncate.sql works only beside load.sql",
    "0124" UnknownPipeline "there is no pipeline of that name",
    "0125" NoBackfill "the pipeline has no backfill",
    "0126" TooManyProblems "there are more problems than are shown",
    "0127" PipelineGone "a pipeline's folder is gone",
    // Templates.
    "0201" TemplateSyntax "a template is malformed",
    "0202" VariableUnset "an environment variable isn't set",
    "0203" TemplateValue "a template can't be rendered",
    "0204" TemplateEmpty "a template leaves no statement",
    // Connections.
    "0301" Unreachable "nothing answers at the server's address",
    "0302" HostUnknown "the host has no address",
    "0303" NoTls "the server offers no TLS",
    "0304" CertificateUntrusted "the server's certificate isn't trusted",
    "0305" CertificateName "the server's certificate is for another name",
    "0306" TlsFile "a TLS file can't be used",
    "0307" TlsHandshake "TLS can't be agreed on",
    "0308" Password "the server refuses the password",
    "0309" NotAllowed "pg_hba.conf refuses the connection",
    "0310" NoDatabase "the database doesn't exist",
    "0311" Pooler "a connection pooler is in between",
    "0312" NotPostgres "the server doesn't speak as Postgres does",
    "0313" ConnectionRefused "the server refuses the connection",
    "0314" ServerAnswer "the server answers a question with an error",
    // Settings, slots, publications, history.
    "0401" WalLevel "wal_level isn't logical",
    "0402" SourceIsStandby "the source is a standby",
    "0403" VersionTooOld "the server's version is too old",
    "0404" NoFreeSlot "all replication slots are taken",
    "0405" NoFreeWalsender "no walsender is left",
    "0406" FailoverVersion "failover slots need Postgres 17",
    "0407" FailoverReplica "failover and replica_host exclude each other",
    "0408" FailoverSettings "synchronized_standby_slots is empty",
    "0409" ForeignSlot "the replication slot isn't trucker's",
    "0410" SlotLost "the replication slot is lost",
    "0411" PublicationGone "the publication is gone",
    "0412" PublicationAltered "the publication was altered",
    "0413" TableUnpublished "a table was taken out of the publication",
    "0414" Redirected "the pipeline's tables are others than before",
    "0415" OtherDatabase "this isn't the database that the pipeline was filled from",
    "0416" Timeline "the server's history has parted from the output's",
    "0417" SlotGone "the replication slot is gone",
    "0418" SlotAhead "the slot starts after what was loaded",
    "0419" WalBehind "the server's WAL ends before what was loaded",
    "0420" ReplicaForeign "the replica belongs to another server",
    "0421" ReplicaNoStandby "the replica is no standby",
    "0422" ReplicaDatabase "the replica's database is another",
    "0423" ReplicaSettings "a setting of the replica should be another",
    "0424" ReplicaBehind "the replica is behind",
    "0425" WalBudget "a slot keeps more WAL than it should",
    "0426" WalAtRisk "a slot is about to be lost",
    "0427" SourceReplaced "the source isn't what it was",
    "0428" StreamUnreadable "the stream can't be read",
    "0429" NotCreated "something is missing that may not be created",
    // Rights.
    "0501" NoReplicationRight "the role may not use replication",
    "0502" NoPublicationRight "the role may not create a publication",
    "0503" NotOwner "the role doesn't own the table",
    "0504" SchemaTrucker "the role may not use schema trucker",
    "0505" TableRight "a right on a table is missing",
    "0506" SchemaRight "a right on a schema is missing",
    "0507" RowSecurity "row-level security hides rows",
    "0508" SqlRight "the SQL needs a right that the role lacks",
    "0509" TemporaryRight "the role may not create temporary tables",
    // Tables.
    "0601" TableMissing "a table doesn't exist",
    "0602" NoChanges "the input has no changes to stream",
    "0603" NoTable "the output is no table",
    "0604" ReplicaIdentity "the input's replica identity isn't enough",
    "0605" PartitionIdentity "a partition has another replica identity",
    "0606" PartitionOfInput "the input is a partition of another input",
    "0607" ColumnMissing "the output has no such column",
    "0608" NoKey "nothing identifies an output row",
    "0609" KeyNotUnique "the key has no unique index",
    "0610" ForeignKey "a foreign key ties two outputs together",
    "0611" Circle "pipelines copy in a circle",
    "0612" VersionDiffers "the two servers read a value differently",
    "0613" NothingShared "input and output have no column in common",
    "0614" KeyNotReturned "the key isn't returned",
    "0615" RequiredNotReturned "a column without default isn't returned",
    "0616" MayBeNull "a NULL may meet a NOT NULL column",
    "0617" InputReplaced "the input table isn't the one that it was",
    "0618" Untraceable "deletes can't be carried out",
    "0619" TableEngine "the output's engine doesn't keep rows in a way that fits",
    "0620" SortingKey "the output isn't sorted by the key",
    // SQL files.
    "0701" SqlSyntax "the SQL has a syntax error",
    "0702" SqlUnknownName "the SQL names something that isn't there",
    "0703" SqlColumnUnknown "new, old or row has no such column",
    "0704" SqlColumnUnsent "a column of old isn't sent",
    "0705" SqlTransformed "transformed isn't in scope",
    "0706" SqlStatements "the file must be one SELECT",
    "0707" SqlResultName "a result column has no name of its own",
    "0708" SqlResultUnknown "the output lacks a result column",
    "0709" SqlResultGenerated "a result column is generated in the output",
    "0710" SqlType "a result's type doesn't fit the output's column",
    "0711" SqlRefused "the source refuses the SQL",
    "0712" LoadRefused "the output refuses load.sql or truncate.sql",
    "0713" SqlChanged "the SQL isn't what the pipeline was filled by",
    // While it runs.
    "0801" SqlFailed "the SQL fails on a change",
    "0802" ValueUnfit "a value doesn't fit",
    "0803" NotNull "a NULL meets a NOT NULL column",
    "0804" NotUnique "a row is there already",
    "0805" ForeignKeyMissing "the row that a foreign key refers to isn't there",
    "0806" CheckViolated "a constraint refuses the row",
    "0807" NullKey "a row's key is NULL",
    "0808" OutputRefused "the output refuses a row",
    "0809" Truncated "an input table was truncated",
    "0810" ValueGone "a value that wasn't sent is gone",
    "0811" OutputRewound "the output has lost rows",
    "0812" ReplicaLost "the replica can't serve any more",
    "0813" StreamBroke "the stream broke off",
    "0814" OutputReadOnly "the output takes no writes",
    "0815" ServerFull "the server has run out of something",
    "0816" TryAgain "somebody else was in the way",
    "0817" RightLost "a right is missing while it runs",
    "0818" Bug "a mistake of trucker's",
    "0819" RowsAhead "the output holds rows of another history",
    "0820" PutAside "changes were put aside",
    "0821" ColumnRetyped "an input column has another type than it had",
    "0822" ColumnGone "an input column is gone",
    // Processes.
    "0901" Held "another process has the project",
    "0902" Fenced "another process has taken over",
    // Pipelines' own tests.
    "1001" TestNone "there is no test to play",
    "1002" TestTables "the tables of a test aren't known",
    "1003" TestName "a test names something that isn't there",
    "1004" TestRefused "what a test puts in is refused",
    "1005" TestDiffers "the output isn't what a test expects",
}

impl Code {
    /// Its section of the page, without the heading.
    pub fn explanation(self) -> &'static str {
        let heading = format!("### {}: ", self.as_str());
        let Some(start) = PAGE.find(&heading) else { return "" };
        let section = &PAGE[start..];
        let section = section.split_once('\n').map_or("", |(_, rest)| rest);
        let end = ["\n### ", "\n## "].iter().filter_map(|next| section.find(next)).min();
        section[..end.unwrap_or(section.len())].trim()
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl FromStr for Code {
    type Err = String;

    /// `TRK0401`, in any case; the letters may be left out.
    fn from_str(text: &str) -> Result<Self, String> {
        let upper = text.trim().to_uppercase();
        let number = upper.strip_prefix("TRK").unwrap_or(&upper);
        let found = Code::ALL.iter().find(|code| code.as_str()[3..] == *number);
        found.copied().ok_or_else(|| format!("there is no code {text}; `trucker explain` lists all of them"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_ascend_and_are_read_back() {
        assert!(Code::ALL.windows(2).all(|pair| pair[0].as_str() < pair[1].as_str()));
        for code in Code::ALL {
            assert_eq!(code.as_str().parse(), Ok(*code));
            assert_eq!(code.as_str()[3..].parse(), Ok(*code));
        }
        assert_eq!("trk0401".parse(), Ok(Code::WalLevel));
        assert!("TRK9999".parse::<Code>().unwrap_err().contains("trucker explain"));
    }

    #[test]
    fn the_page_explains_each_code_with_its_cure_and_an_example() {
        let headings: Vec<&str> = PAGE.lines().filter_map(|line| line.strip_prefix("### ")).collect();
        let expected: Vec<String> =
            Code::ALL.iter().map(|code| format!("{code}: {}", code.title())).collect();
        assert_eq!(headings, expected);
        for code in Code::ALL {
            let text = code.explanation();
            assert!(text.split("**Mend it:**").next().is_some_and(|why| why.len() > 40), "{code}: {text}");
            assert!(text.contains("**Mend it:**"), "{code} has no cure");
            assert_eq!(text.matches("```").count(), 2, "{code} has no example");
        }
    }
}
