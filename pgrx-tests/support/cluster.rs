//! A private server for tests that would disturb others: full queues, crashes, settings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use postgres::NoTls;

use super::{Notices, SERVER, Session};

/// A private cluster. It listens only on its own socket, and is removed when this value is dropped.
pub struct Cluster {
    /// Holds the data, the socket and the log.
    directory: PathBuf,
    bin: PathBuf,
    options: String,
    /// Limit of the address space of each process, in kilobytes; `None` for no limit.
    memory: Option<u64>,
}

/// Data directories from which clusters are copied, by the name of their preparation. The name is
/// empty after initdb alone.
static PREPARED: Mutex<BTreeMap<&'static str, PathBuf>> = Mutex::new(BTreeMap::new());
const PRELOAD: &str = "shared_preload_libraries=pg_civic";

impl Cluster {
    /// Creates and starts a cluster with these settings, from the programs of the running server.
    pub fn start(settings: &[&str]) -> Cluster {
        Cluster::copy_of(&initialized(), None, settings)
    }

    /// The same, with a limit for the address space of each process, in kilobytes.
    pub fn start_within(kilobytes: u64, settings: &[&str]) -> Cluster {
        Cluster::copy_of(&initialized(), Some(kilobytes), settings)
    }

    /// A cluster that preloads the library and in which `prepare` was run, once per name.
    pub fn preloaded(
        name: &'static str,
        settings: &[&str],
        prepare: impl FnOnce(&Cluster),
    ) -> Cluster {
        let pristine = initialized();
        let data = prepared(name, || {
            let cluster = Cluster::copy_of(&pristine, None, &[PRELOAD]);
            prepare(&cluster);
            cluster.stop("fast");
            let data = PLACE.directory().join("data");
            copy(&cluster.directory.join("data"), &data);
            data
        });
        Cluster::copy_of(&data, None, &[&[PRELOAD], settings].concat())
    }

    fn copy_of(data: &Path, memory: Option<u64>, settings: &[&str]) -> Cluster {
        let directory = PLACE.directory();
        copy(data, &directory.join("data"));
        let mut options = format!(
            "-c listen_addresses= -c unix_socket_directories={} -c fsync=off",
            directory.display()
        );
        for setting in settings {
            options.push_str(&format!(" -c {setting}"));
        }
        let cluster = Cluster { directory, bin: PLACE.bin.clone(), options, memory };
        cluster.start_again();
        cluster
    }

    /// Starts the stopped cluster again, with its original settings.
    pub fn start_again(&self) {
        output(
            self.limited("pg_ctl")
                .args(["-w", "-s", "-o", &self.options, "start", "-D"])
                .arg(self.directory.join("data"))
                .arg("-l")
                .arg(self.directory.join("log")),
        );
    }

    /// One of PostgreSQL's programs, with the memory limit if there is one.
    fn limited(&self, program: &str) -> Command {
        let program = self.bin.join(program);
        let Some(kilobytes) = self.memory else { return server_user(program) };
        let mut shell = server_user("sh");
        shell.args(["-c", &format!("ulimit -v {kilobytes} && exec \"$@\""), "sh"]).arg(program);
        shell
    }

    /// A hot standby of this cluster with the same settings. The cluster is stopped for the copy.
    pub fn standby(&self) -> Cluster {
        let directory = PLACE.directory();
        self.stop("fast");
        copy(&self.directory.join("data"), &directory.join("data"));
        output(server_user("touch").arg(directory.join("data/standby.signal")));
        self.start_again();
        let socket = |directory: &PathBuf| directory.display().to_string();
        let own = self.options.replace(&socket(&self.directory), &socket(&directory));
        let primary = format!("host={} user={}", socket(&self.directory), SERVER.user);
        let options = format!("{own} -c 'primary_conninfo={primary}'");
        let standby = Cluster { directory, bin: self.bin.clone(), options, memory: self.memory };
        standby.start_again();
        standby
    }

    /// Starts it again after a crash; false while a process of the crashed server still exists.
    pub fn try_start_again(&self) -> bool {
        server_user(self.bin.join("pg_ctl"))
            .args(["-w", "-s", "-o", &self.options, "start", "-D"])
            .arg(self.directory.join("data"))
            .arg("-l")
            .arg(self.directory.join("log"))
            .stdin(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    /// Stops it: smart, fast or immediate.
    pub fn stop(&self, mode: &str) {
        output(
            server_user(self.bin.join("pg_ctl"))
                .args(["-m", mode, "-w", "-s", "stop", "-D"])
                .arg(self.directory.join("data")),
        );
    }

    /// One of PostgreSQL's own programs, with the cluster's address.
    pub fn program(&self, name: &str, database: &str) -> Command {
        let mut program = Command::new(self.bin.join(name));
        program.arg("--host").arg(&self.directory).args(["--username", &SERVER.user]);
        program.args(["--dbname", database]);
        program
    }

    /// The directory of its socket, and the superuser's name, for clients without the driver.
    pub fn address(&self) -> (&Path, &'static str) {
        (&self.directory, &SERVER.user)
    }

    /// Sends a signal to one of its processes.
    pub fn signal(&self, signal: &str, pid: &str) {
        output(server_user("kill").args(["-s", signal, pid]));
    }

    /// Stops one of its workers while it waits for work, until it is sent CONT. Amid something else it may
    /// hold a lock that every session waits for.
    pub fn hold(&self, pid: &str) {
        let mut session = self.superuser();
        let waits = format!(
            "SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Extension'"
        );
        super::wait_until("it waits for work", || session.text(&waits) == "t");
        self.signal("STOP", pid);
    }

    /// Limits the size of the files that a process writes: what is beyond it fails, as on a full disk. The
    /// processes that it starts inherit the limit.
    pub fn limit_files(&self, pid: &str, bytes: &str) {
        let limit = format!("--fsize={bytes}:");
        output(server_user("prlimit").args(["--pid", pid, &limit]));
    }

    /// Runs statements, one per line, in the stopped cluster in single-user mode.
    pub fn single_user(&self, sql: &str) -> String {
        use std::io::Write;
        let mut process = server_user(self.bin.join("postgres"))
            .args(["--single", "-D"])
            .arg(self.directory.join("data"))
            .args(self.options.split_whitespace())
            .arg("postgres")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("it can be run");
        let mut stdin = process.stdin.take().expect("a pipe");
        stdin.write_all(sql.as_bytes()).expect("it reads");
        drop(stdin);
        let output = process.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// The server's log.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&output_bytes(server_user("cat").arg(self.directory.join("log"))))
            .into_owned()
    }

    /// A session of the superuser in the database `postgres`.
    pub fn superuser(&self) -> Session {
        self.connect("postgres").expect("the cluster takes connections")
    }

    /// A session of the superuser, as soon as the cluster, which may be in recovery, accepts one.
    pub fn superuser_of(&self, database: &str) -> Session {
        let deadline = Instant::now() + super::DEADLINE;
        loop {
            match self.connect(database) {
                Ok(session) => return session,
                Err(error) => assert!(Instant::now() < deadline, "{database}: {error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn connect(&self, database: &str) -> Result<Session, postgres::Error> {
        let notices = Notices::default();
        let received = Arc::clone(&notices);
        let client = postgres::Config::new()
            .host_path(&self.directory)
            .user(&SERVER.user)
            .dbname(database)
            .notice_callback(move |notice| received.lock().expect("not poisoned").push(notice))
            .connect(NoTls)?;
        Ok(Session { client, notices })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let is_running = server_user("test")
            .arg("-e")
            .arg(self.directory.join("data/postmaster.pid"))
            .status()
            .is_ok_and(|status| status.success());
        if !is_running {
            let _ = server_user("rm").arg("-rf").arg(&self.directory).status();
            return;
        }
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

/// Where clusters are created, and from what.
struct Place {
    parent: PathBuf,
    bin: PathBuf,
}

static PLACE: LazyLock<Place> = LazyLock::new(|| {
    let mut running = SERVER.connect("postgres", Arc::default());
    let mut text = |sql: &str| running.query_one(sql, &[]).expect(sql).get::<_, String>(0);
    let bin = PathBuf::from(text("SELECT setting FROM pg_config WHERE name = 'BINDIR'"));
    // Next to the data of the running server, which may be in memory, unless the socket path there
    // would be too long.
    let data = PathBuf::from(text("SHOW data_directory"));
    let beside = data.parent().filter(|parent| parent.as_os_str().len() < 75);
    let base = beside.map_or_else(|| PathBuf::from("/tmp"), Path::to_path_buf);
    let place = Place { parent: mktemp(&base), bin };
    let parent = place.parent.clone();
    pgrx_tests::add_shutdown_hook(move || {
        let _ = server_user("rm").arg("-rf").arg(&parent).status();
    });
    place
});

impl Place {
    /// A new directory.
    fn directory(&self) -> PathBuf {
        mktemp(&self.parent)
    }
}

/// The data directory of this name, which `make` creates the first time. A second caller waits for
/// it.
fn prepared(name: &'static str, make: impl FnOnce() -> PathBuf) -> PathBuf {
    let mut all = PREPARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    all.entry(name).or_insert_with(make).clone()
}

/// A data directory as initdb creates it.
fn initialized() -> PathBuf {
    prepared("", || {
        let data = PLACE.directory().join("data");
        output(
            server_user(PLACE.bin.join("initdb"))
                .args(["-N", "--auth=trust", "--encoding=UTF8", "--locale=C", "-U", &SERVER.user])
                .arg("-D")
                .arg(&data),
        );
        data
    })
}

fn mktemp(parent: &Path) -> PathBuf {
    let made = output(server_user("mktemp").arg("-d").arg(parent.join("c.XXXXXX")));
    PathBuf::from(made.trim())
}

fn copy(from: &Path, to: &Path) {
    output(server_user("cp").arg("-a").arg(from).arg(to));
}

/// A command as the user that runs the servers: PostgreSQL refuses to run as root.
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

/// The output of a command that succeeds.
#[track_caller]
fn output(command: &mut Command) -> String {
    String::from_utf8(output_bytes(command)).expect("UTF-8")
}

#[track_caller]
fn output_bytes(command: &mut Command) -> Vec<u8> {
    // Inherited pipes would stay open in the server that pg_ctl starts.
    let output = command.stdin(std::process::Stdio::null()).output().expect("it can be run");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{errors}");
    output.stdout
}
