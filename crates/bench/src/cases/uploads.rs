//! The cost of the policies on an INSERT of many objects, over the same INSERT by a role that
//! bypasses row security. Each side has its own database.

use postgres::Client;

use crate::Error;
use crate::measure::{Clock, Progress, Side, in_turn, over};
use crate::report::{Comparison, Figure, Ratio};
use crate::server::{self, Server, fill};

const OBJECTS: usize = 10_000;

/// How the objects are written.
#[derive(Clone, Copy)]
enum Way {
    OneStatement,
    /// As the Storage API does, but in one transaction, so that commits do not dominate.
    StatementEach,
}

impl Way {
    const fn rounds(self) -> usize {
        match self {
            Way::OneStatement => 21,
            Way::StatementEach => 5,
        }
    }
}

/// Writes all objects and rolls back.
fn upload(session: &mut Client, way: Way) -> Result<(), Error> {
    let tenant_id = server::tenant(1);
    let mut transaction = session.transaction()?;
    match way {
        Way::OneStatement => {
            let variables = [("tenant", &*tenant_id), ("objects", &OBJECTS.to_string())];
            transaction.batch_execute(&fill(include_str!("../../sql/uploads.sql"), &variables))?;
        }
        Way::StatementEach => {
            let statement = transaction.prepare(include_str!("../../sql/upload.sql"))?;
            for object in 0..OBJECTS {
                let name = format!("{tenant_id}/{}/photo.jpg", server::tenant(object));
                transaction.execute(&statement, &[&name])?;
            }
        }
    }
    transaction.rollback()?;
    Ok(())
}

fn compare(server: &Server, progress: &mut Progress, way: Way) -> Result<[Figure; 2], Error> {
    let tenant_id = server::tenant(1);
    let side = |database: &'static str, session: Result<Client, Error>| {
        let (mut session, mut owner) = (session?, server.session(database)?);
        let clock = Clock::of(&mut session)?;
        Ok::<_, Error>(move || {
            owner.batch_execute("TRUNCATE storage.objects")?;
            owner.batch_execute("CHECKPOINT")?;
            clock.time(|| upload(&mut session, way))
        })
    };
    let sides: [Side<'_>; 4] = [
        &mut side("uploads_civic", server.unguarded("uploads_civic"))?,
        &mut side("uploads_civic", server.manager("uploads_civic", &tenant_id))?,
        &mut side("uploads_plain", server.unguarded("uploads_plain"))?,
        &mut side("uploads_plain", server.manager("uploads_plain", &tenant_id))?,
    ];
    let [civic_open, civic, plain_open, plain] = in_turn(progress, way.rounds(), sides)?;
    Ok([
        Figure::new("civic policies", over(&civic, &civic_open)),
        Figure::new("the migrations' six policies", over(&plain, &plain_open)),
    ])
}

pub fn measure(server: &Server, progress: &mut Progress) -> Result<Vec<Comparison>, Error> {
    let fixtures = [server::SUPABASE, server::APPLICATION];
    // Unlogged, so that the cost of the rows does not dominate that of the policies.
    let unlogged = "ALTER TABLE storage.objects SET UNLOGGED";
    server.create("uploads_civic", &[&fixtures[..], &[unlogged, server::CIVIC]].concat())?;
    server.create("uploads_plain", &[&fixtures[..], &[unlogged, server::MIGRATIONS]].concat())?;
    [
        (Way::OneStatement, "WITH CHECK of 10,000 object inserts (over none)", Some(0.3)),
        (Way::StatementEach, "    the same, a prepared statement each", None),
    ]
    .into_iter()
    .map(|(way, case, at_most)| {
        let [ours, peer] = compare(server, progress, way)?;
        Ok(Comparison { case: case.to_owned(), ours, peer, ratio: Ratio::Share { at_most } })
    })
    .collect()
}
