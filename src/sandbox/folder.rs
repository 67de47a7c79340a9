//! A folder under the system's temporary one that goes away with this process, however that ends. A small
//! shell waits at a pipe that only this process holds open: when it closes, the shell stops the server whose
//! pid file lies in the folder, and the process that `process.pid` names, if any, and removes the folder. So kill -9 leaves nothing behind either.
//!
//! Also knows which user owns the folder: Postgres refuses to run as root, so root hands it to another.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::SandboxError;

/// $1 is the folder. The wait for the server's end is bounded: where nobody reaps processes, a dead one
/// never quite goes away.
const WATCHDOG: &str = r#"
read -r _
for file in "$1/process.pid" "$1/data/postmaster.pid"; do
  pid=$(head -n 1 "$file" 2>/dev/null)
  [ -n "$pid" ] && kill -QUIT "$pid" 2>/dev/null
done
tries=0
while [ -e "$1/data/postmaster.pid" ] && [ $tries -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
rm -rf -- "$1"
"#;

/// A user's numbers.
#[derive(Debug, Clone, Copy)]
struct Owner {
    uid: u32,
    gid: u32,
}

/// The folder; dropped, it is removed.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Who owns the folder, where that is somebody else than the user of this process.
    owner: Option<Owner>,
    watchdog: Child,
}

impl Folder {
    /// A new, empty folder with a short name: the path of a Unix socket within may have 107 bytes.
    pub fn create() -> Result<Self, SandboxError> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let path = loop {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("trucker-{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => break path,
                // Left by an earlier process of the same number.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(SandboxError::io("cannot create", path)(error)),
            }
        };
        let metadata = fs::metadata(&path).map_err(SandboxError::io("cannot read", &path))?;
        let owner = if metadata.uid() == 0 { Some(unprivileged_owner()?) } else { None };
        if let Some(Owner { uid, gid }) = owner {
            chown(&path, Some(uid), Some(gid)).map_err(SandboxError::io("cannot give away", &path))?;
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))
            .map_err(SandboxError::io("cannot set the rights of", &path))?;
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "trucker-sandbox"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A group of its own: Ctrl-C at the terminal must not reach it.
            .process_group(0)
            .spawn()
            .map_err(SandboxError::io("cannot run sh to watch over", &path))?;
        Ok(Folder { path, owner, watchdog })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file, in a subfolder where its name has one, that the owner can read and only the owner.
    pub fn write(&self, name: &str, text: &str) -> Result<(), SandboxError> {
        let path = self.path.join(name);
        let parent = path.parent().unwrap_or(&self.path);
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, text))
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o600)))
            .and_then(|()| match self.owner {
                Some(Owner { uid, gid }) => chown(&path, Some(uid), Some(gid)),
                None => Ok(()),
            })
            .map_err(SandboxError::io("cannot write", path))
    }

    /// A command that will run as the folder's owner, in the folder, unmoved by Ctrl-C and by `PG…`
    /// variables that were meant for somebody else.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.path).stdin(Stdio::null()).process_group(0);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|n| n.starts_with("PG")) {
                command.env_remove(name);
            }
        }
        if let Some(Owner { uid, gid }) = self.owner {
            command.uid(uid).gid(gid);
        }
        command
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        // Nothing to do about a watchdog that is gone already.
        let _ = self.watchdog.wait();
    }
}

/// `postgres` if the machine has such a user, else `nobody`.
fn unprivileged_owner() -> Result<Owner, SandboxError> {
    let passwd = fs::read_to_string("/etc/passwd").map_err(SandboxError::io("cannot read", "/etc/passwd"))?;
    ["postgres", "nobody"].iter().find_map(|name| find_owner(&passwd, name)).ok_or(SandboxError::NoUser)
}

fn find_owner(passwd: &str, name: &str) -> Option<Owner> {
    let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|f| f[0] == name)?;
    Some(Owner { uid: fields.get(2)?.parse().ok()?, gid: fields.get(3)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_gone_when_dropped() {
        let folder = Folder::create().unwrap();
        let path = folder.path().to_owned();
        folder.write("note", "x").unwrap();
        assert!(path.join("note").exists());
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn owners_are_found_by_their_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody2:x:7:7::/:\nnobody:x:65534:65533::/:\n\nbroken\n";
        let owner = find_owner(passwd, "nobody").unwrap();
        assert_eq!((owner.uid, owner.gid), (65534, 65533));
        assert!(find_owner(passwd, "postgres").is_none());
        assert!(find_owner(passwd, "broken").is_none());
    }
}
