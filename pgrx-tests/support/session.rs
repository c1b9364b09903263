//! A session of a test with a real server.

use postgres::error::DbError;
use postgres::fallible_iterator::FallibleIterator;
use postgres::{Client, SimpleQueryMessage};
use serde_json::Value;

use super::{Notices, literal};

/// A connection, with the notices that the server sends.
pub struct Session {
    pub(super) client: Client,
    pub(super) notices: Notices,
}

impl Session {
    /// Switches to a database role with claims, until the next switch.
    pub fn acts_as(&mut self, role: &str, claims: &str) {
        self.run(&format!(
            "SET ROLE {role}; SELECT set_config('request.jwt.claims', {}, false)",
            literal(claims)
        ));
    }

    pub fn reset_role(&mut self) {
        self.run("RESET ROLE");
    }

    /// Runs statements that succeed.
    #[track_caller]
    pub fn run(&mut self, sql: &str) {
        if let Err(error) = self.client.batch_execute(sql) {
            panic!("{sql}\n{:?}", error.as_db_error());
        }
    }

    /// Every row of a query, as text.
    #[track_caller]
    pub fn rows(&mut self, sql: &str) -> Vec<Vec<Option<String>>> {
        match self.client.simple_query(sql) {
            Err(error) => panic!("{sql}\n{:?}", error.as_db_error()),
            Ok(messages) => messages
                .iter()
                .filter_map(|message| match message {
                    SimpleQueryMessage::Row(row) => {
                        Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect())
                    }
                    _ => None,
                })
                .collect(),
        }
    }

    /// The first column of a query, NULLs as `"NULL"`.
    #[track_caller]
    pub fn column(&mut self, sql: &str) -> Vec<String> {
        let value = |row: Vec<Option<String>>| row.into_iter().next().flatten();
        self.rows(sql).into_iter().map(|row| value(row).unwrap_or("NULL".to_owned())).collect()
    }

    /// The single value of a query.
    #[track_caller]
    pub fn value(&mut self, sql: &str) -> Option<String> {
        let rows = self.rows(sql);
        assert_eq!(rows.len(), 1, "{sql} gives one row");
        rows[0][0].clone()
    }

    /// The single value of a query, which is not NULL.
    #[track_caller]
    pub fn text(&mut self, sql: &str) -> String {
        self.value(sql).unwrap_or_else(|| panic!("{sql} gives NULL"))
    }

    /// The error of a statement that fails.
    #[track_caller]
    pub fn error(&mut self, sql: &str) -> DbError {
        match self.client.batch_execute(sql) {
            Ok(()) => panic!("{sql} succeeded"),
            Err(error) => error.as_db_error().unwrap_or_else(|| panic!("{error}")).clone(),
        }
    }

    /// The SQLSTATE of a statement that fails.
    #[track_caller]
    pub fn sqlstate(&mut self, sql: &str) -> String {
        self.error(sql).code().code().to_owned()
    }

    /// The number of rows that a statement affects.
    #[track_caller]
    pub fn affected(&mut self, sql: &str) -> u64 {
        self.client.execute(sql, &[]).unwrap_or_else(|error| panic!("{sql}\n{error:?}"))
    }

    /// WARNINGs since the last call, but for the one that a ticket's files are not moved: most tests have no
    /// Storage API that could.
    pub fn warnings(&mut self) -> Vec<DbError> {
        let is_of_files = |it: &DbError| it.message().starts_with("files of a ticket that became");
        self.all_warnings().into_iter().filter(|warning| !is_of_files(warning)).collect()
    }

    /// WARNINGs since the last call.
    pub fn all_warnings(&mut self) -> Vec<DbError> {
        self.notices().into_iter().filter(|notice| notice.severity() == "WARNING").collect()
    }

    /// Notices of any severity since the last call.
    pub fn notices(&mut self) -> Vec<DbError> {
        std::mem::take(&mut *self.notices.lock().expect("not poisoned"))
    }

    /// Channel and payload of each notification received. A round trip first makes sure that all
    /// notifications of earlier commits have arrived.
    pub fn heard(&mut self) -> Vec<(String, String)> {
        self.run("SELECT 1");
        let mut notifications = self.client.notifications();
        let iterator = notifications.iter();
        iterator
            .map(|received| Ok((received.channel().to_owned(), received.payload().to_owned())))
            .collect()
            .expect("the connection is open")
    }

    /// The events received, on any channel.
    pub fn events(&mut self) -> Vec<Value> {
        let parse = |(_, payload): (String, String)| {
            serde_json::from_str(&payload).unwrap_or_else(|_| panic!("{payload} is JSON"))
        };
        self.heard().into_iter().map(parse).collect()
    }

    /// Listens to a municipality's two channels.
    pub fn listens_to(&mut self, tenant_id: &str) {
        for suffix in ["", ":sensitive"] {
            self.run(&format!("LISTEN \"ticket_updates:{tenant_id}{suffix}\""));
        }
    }

    /// Creates the table `ticket` with these columns and the trigger.
    pub fn makes_ticket_table(&mut self, columns: &str) {
        self.run(&format!(
            "CREATE TABLE ticket ({columns});
             CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON ticket
                 FOR EACH ROW EXECUTE FUNCTION civic.notify_ticket_update()"
        ));
    }

    /// Gives access to the driver's own calls.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }
}
