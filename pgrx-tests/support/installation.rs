//! The state of an installation in the catalogs, and its reports.

use std::io::Write;
use std::process::Stdio;
use std::time::Instant;

use super::{Database, Session};

pub const SETUP: &str = "SELECT * FROM civic.setup('public.tickets')";
pub const TEARDOWN: &str = "SELECT * FROM civic.teardown()";

/// Component, action and detail of each step.
pub type Step = (String, String, String);

/// The findings of a `check()`: component, detail, fix.
pub type Wrong = (String, String, Option<String>);

impl Database {
    /// A copy of this database made with pg_dump and pg_restore.
    pub fn restored(&self) -> Database {
        let restored = Database::empty("");
        let dump = self.program("pg_dump").arg("--format=custom").output().expect("it runs");
        assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
        let mut restore = restored
            .program("pg_restore")
            .arg("--exit-on-error")
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        restore.stdin.take().expect("piped").write_all(&dump.stdout).expect("it reads");
        let restore = restore.wait_with_output().expect("it ends");
        assert!(restore.status.success(), "{}", String::from_utf8_lossy(&restore.stderr));
        restored
    }
}

impl Session {
    /// The steps of `setup` or `teardown`.
    #[track_caller]
    pub fn steps(&mut self, sql: &str) -> Vec<Step> {
        let text = |value: &Option<String>| value.clone().expect("no column is NULL");
        self.rows(sql).iter().map(|row| (text(&row[0]), text(&row[1]), text(&row[2]))).collect()
    }

    #[track_caller]
    pub fn wrong(&mut self) -> Vec<Wrong> {
        let rows = self.rows("SELECT component, detail, fix FROM civic.check() WHERE NOT ok");
        let text = |value: &Option<String>| value.clone().expect("not NULL");
        rows.iter().map(|row| (text(&row[0]), text(&row[1]), row[2].clone())).collect()
    }

    /// The components of the findings of `check()`.
    #[track_caller]
    pub fn wrong_components(&mut self) -> Vec<String> {
        self.wrong().into_iter().map(|(component, ..)| component).collect()
    }

    /// Everything that `setup` and `teardown` may change, with OIDs and row versions: an equal list
    /// means that nothing was changed, dropped or recreated.
    pub fn traces(&mut self) -> Vec<String> {
        let mut traces = self.column(
            "SELECT format('policy %s %s %s %s %s %s %s %s', oid, polname, polrelid::regclass, polcmd,
                           polpermissive, polroles, pg_get_expr(polqual, polrelid),
                           pg_get_expr(polwithcheck, polrelid))
             FROM pg_policy
             UNION ALL
             SELECT format('trigger %s %s %s', oid, tgenabled, pg_get_triggerdef(oid))
             FROM pg_trigger
             UNION ALL
             SELECT format('relation %s %s %s %s %s %s', oid, oid::regclass, relrowsecurity,
                           relforcerowsecurity, relowner, relacl)
             FROM pg_class
             WHERE relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema')
             UNION ALL
             SELECT format('function %s %s %s', oid, oid::regprocedure, proacl) FROM pg_proc
             WHERE pronamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema')
             UNION ALL
             SELECT format('schema %s %s %s', nspname, nspowner, nspacl) FROM pg_namespace
             UNION ALL
             SELECT format('publication %s %s %s %s', pubname, pubinsert, pubupdate, pubdelete)
             FROM pg_publication
             ORDER BY 1",
        );
        if self.text("SELECT to_regclass('storage.buckets') IS NOT NULL") == "t" {
            traces.extend(self.column(
                "SELECT format('bucket %s %s %s', xmin, ctid, b) FROM storage.buckets b ORDER BY id",
            ));
        }
        traces
    }

    pub fn process(&mut self) -> String {
        self.text("SELECT pg_backend_pid()")
    }
}

/// Waits until a process of the server waits for a lock.
#[track_caller]
pub fn wait_until_blocked(database: &Database, process: &str) {
    let mut session = database.superuser();
    let deadline = Instant::now() + super::DEADLINE;
    let is_blocked = format!(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = {process} AND NOT granted) FROM pg_sleep(0.01)"
    );
    while session.text(&is_blocked) != "t" {
        assert!(Instant::now() < deadline, "process {process} never waited");
    }
}

/// The distinct actions of some steps.
pub fn actions(steps: &[Step]) -> Vec<&str> {
    let mut actions: Vec<_> = steps.iter().map(|(_, action, _)| action.as_str()).collect();
    actions.sort();
    actions.dedup();
    actions
}

/// The action of the step for a component.
#[track_caller]
pub fn action_of<'a>(steps: &'a [Step], component: &str) -> &'a str {
    let step = steps.iter().find(|(name, ..)| name == component);
    &step.unwrap_or_else(|| panic!("no step about {component}: {steps:?}")).1
}
