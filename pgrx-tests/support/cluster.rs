//! A server of a test's own, for what would disturb the others: full queues, crashes, settings.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use postgres::NoTls;

use super::{Notices, SERVER, Session};

/// A private cluster: it listens on its own socket alone, and is gone with this value.
pub struct Cluster {
    /// Holds the data, the socket and the log.
    directory: PathBuf,
    bin: PathBuf,
}

impl Cluster {
    /// Makes and starts one, with these settings, from the programs of the server that runs.
    pub fn start(settings: &[&str]) -> Cluster {
        let mut running = SERVER.connect("postgres", Arc::default());
        let bin = running
            .query_one("SELECT setting FROM pg_config WHERE name = 'BINDIR'", &[])
            .expect("the server knows where it is installed");
        let mktemp = output(server_user("mktemp").args(["-d", "/tmp/pg_civic.XXXXXX"]));
        let cluster = Cluster {
            directory: PathBuf::from(mktemp.trim()),
            bin: PathBuf::from(bin.get::<_, String>(0)),
        };
        let data = cluster.directory.join("data");
        output(
            server_user(cluster.bin.join("initdb"))
                .args(["-N", "--auth=trust", "--encoding=UTF8", "--locale=C", "-U", &SERVER.user])
                .arg("-D")
                .arg(&data),
        );
        let directory = cluster.directory.display();
        let mut options =
            format!("-c listen_addresses= -c unix_socket_directories={directory} -c fsync=off");
        for setting in settings {
            options.push_str(&format!(" -c {setting}"));
        }
        output(
            server_user(cluster.bin.join("pg_ctl"))
                .args(["-w", "-s", "-o", &options, "start", "-D"])
                .arg(&data)
                .arg("-l")
                .arg(cluster.directory.join("log")),
        );
        cluster
    }

    /// A session of the superuser in the database `postgres`.
    pub fn superuser(&self) -> Session {
        let notices = Notices::default();
        let heard = Arc::clone(&notices);
        let client = postgres::Config::new()
            .host_path(&self.directory)
            .user(&SERVER.user)
            .dbname("postgres")
            .notice_callback(move |notice| heard.lock().expect("not poisoned").push(notice))
            .connect(NoTls)
            .expect("the cluster takes connections");
        Session { client, notices }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let stop = server_user(self.bin.join("pg_ctl"))
            .args(["-m", "immediate", "-w", "-s", "stop", "-D"])
            .arg(self.directory.join("data"))
            .status();
        let remove = server_user("rm").arg("-rf").arg(&self.directory).status();
        for (action, status) in [("stop", stop), ("remove", remove)] {
            if !status.as_ref().is_ok_and(std::process::ExitStatus::success) {
                eprintln!(
                    "could not {action} the cluster {}: {status:?}",
                    self.directory.display()
                );
            }
        }
    }
}

/// A command as the user that the servers run as: PostgreSQL refuses to run as root.
fn server_user(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = match std::env::var_os("CARGO_PGRX_TEST_RUNAS") {
        Some(user) => {
            let mut sudo = Command::new("sudo");
            sudo.arg("-u").arg(user).arg(program);
            sudo
        }
        None => Command::new(program),
    };
    command.current_dir("/");
    command
}

/// What a command that succeeds prints.
#[track_caller]
fn output(command: &mut Command) -> String {
    // Inherited pipes would stay open with the server that pg_ctl leaves behind.
    let output = command.stdin(std::process::Stdio::null()).output().expect("it can be run");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}
