//! What editors need to complete keys and to mark mistakes: schemas in the project, and in each file a line that names
//! its schema. Pure.

use super::File;
use crate::config::schema;

/// Hidden, so that it is no pipeline.
const FOLDER: &str = ".trucker";

/// The schemas, as `trucker schema` prints them.
pub fn schemas() -> Vec<File> {
    let all = [
        ("trucker", schema::project_schema()),
        ("pipeline", schema::pipeline_schema()),
        ("test", schema::test_schema()),
    ];
    all.map(|(name, schema)| (format!("{FOLDER}/{name}.json"), format!("{schema:#}\n"))).to_vec()
}

/// The file with its line on top, if it is one that has a schema.
pub fn with_schema((path, text): File) -> File {
    let name = match path.split('/').collect::<Vec<_>>().as_slice() {
        ["trucker.yml"] => "trucker",
        [_, "config.yml"] => "pipeline",
        [_, "tests", _] => "test",
        _ => return (path, text),
    };
    let up = "../".repeat(path.matches('/').count());
    (path, format!("# yaml-language-server: $schema={up}{FOLDER}/{name}.json\n{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::accepts_text;
    use crate::scaffold::example;

    #[test]
    fn each_file_names_a_schema_that_is_there_and_takes_it() {
        let schemas = schemas();
        let mut count = 0;
        for (path, text) in example::files("shop").into_iter().map(with_schema) {
            let Some(folder) =
                path.strip_suffix(".yml").map(|_| path.rsplit_once('/').map_or("", |(f, _)| f))
            else {
                continue;
            };
            let (line, _) = text.split_once('\n').unwrap();
            let named = line.strip_prefix("# yaml-language-server: $schema=").unwrap();
            let depth = folder.split('/').filter(|part| !part.is_empty()).count();
            let named = named.strip_prefix(&"../".repeat(depth)).unwrap();
            let (_, schema) = schemas.iter().find(|(path, _)| path == named).unwrap();
            assert!(accepts_text(serde_json::from_str(schema).unwrap(), &text), "{path}");
            count += 1;
        }
        assert_eq!(count, 3);
    }
}
