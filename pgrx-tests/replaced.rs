//! A new library is installed beside a server that runs the old one.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::cluster::Cluster;
use super::support::wait_until;

/// A directory that is removed with this value.
struct Directory(PathBuf);

impl Directory {
    /// The server's user, who may be another one, reads what is in it.
    fn open_to_all(path: PathBuf) -> Directory {
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a directory");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("it is ours");
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn installs(staged: &Path, lib: &Path, share: &Path) {
    let output = Command::new("sh").arg(staged.join("install.sh")).args([lib, share]).output();
    let output = output.expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_library_installed_beside_a_running_server_ends_no_process_of_it() {
    let server = Cluster::start(&[]);
    let mut session = server.superuser();
    let setting = |session: &mut super::support::Session, name: &str| {
        PathBuf::from(session.text(&format!("SELECT setting FROM pg_config WHERE name = '{name}'")))
    };
    let (lib, share) = (setting(&mut session, "PKGLIBDIR"), setting(&mut session, "SHAREDIR"));
    let name = format!("pg_civic-replaced-{}", std::process::id());
    let place = Directory::open_to_all(std::env::temp_dir().join(name));
    let (installed, staged) = (place.0.join("installed"), place.0.join("staged"));
    let extension = Path::new("share/extension");
    for directory in [installed.join(extension), staged.join("lib"), staged.join(extension)] {
        std::fs::create_dir_all(directory).expect("a directory");
    }
    std::fs::copy(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/place.sh"),
        staged.join("install.sh"),
    )
    .expect("the script");
    std::fs::copy(lib.join("pg_civic.so"), staged.join("lib/pg_civic.so")).expect("the library");
    let control = extension.join("pg_civic.control");
    std::fs::copy(share.join("extension/pg_civic.control"), staged.join(&control))
        .expect("the control file");
    installs(&staged, &installed, &installed.join("share"));

    let own = format!("dynamic_library_path={}:{}", installed.display(), lib.display());
    let cluster =
        Cluster::start(&["shared_preload_libraries=pg_civic", "civic.database=postgres", &own]);
    let mut old = cluster.superuser();
    old.run("CREATE EXTENSION pg_civic");
    wait_until("the relay runs", || old.text("SELECT running FROM civic.relay_stats()") == "t");
    let processes =
        "SELECT pg_postmaster_start_time(), array_agg(pid ORDER BY pid) FROM pg_stat_activity
                     WHERE backend_type LIKE 'pg_civic%'";
    let before = old.rows(processes);
    let inode = || std::fs::metadata(installed.join("pg_civic.so")).expect("installed").ino();
    let old_inode = inode();

    // The new one differs: everything that is mapped would be something else if it came to the same file.
    let new = std::fs::OpenOptions::new().write(true).open(staged.join("lib/pg_civic.so"));
    new.expect("it is ours").set_len(4096).expect("it is cut");
    installs(&staged, &installed, &installed.join("share"));
    assert_ne!(inode(), old_inode);
    assert_eq!(std::fs::metadata(installed.join("pg_civic.so")).expect("installed").len(), 4096);

    // Much of the old one has not been read yet.
    for session in [&mut old, &mut cluster.superuser()] {
        assert_eq!(session.text("SELECT count(*) > 5 FROM civic.check()"), "t");
        session.run("SELECT civic.publish('t', '{\"type\": \"x\"}')");
        assert_eq!(session.text("SELECT civic.object_path('t', 'f', 'x.jpg')"), "t/f/x.jpg");
        assert_eq!(session.text("SELECT count(*) > 20 FROM civic.metrics"), "t");
        assert_eq!(session.sqlstate("SELECT civic.get_signed_url('evidence', 't/f/x')").len(), 5);
    }
    wait_until("both events are delivered", || {
        old.text("SELECT delivered FROM civic.relay_stats()") == "2"
    });
    assert_eq!(old.rows(processes), before);
    assert!(!cluster.log().contains("terminated by signal"), "{}", cluster.log());
    let left = std::fs::read_dir(&installed).expect("it is there").count();
    assert_eq!(left, 2, "nothing but the library and share is left");
}
