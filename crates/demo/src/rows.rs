//! The rows of the application's tables, before and after `civic.protect()`.

use crate::TSHWANE;
use crate::people::{Person, Server};
use crate::story::{Story, refused};

/// As the application's migrations leave its tables.
const BY_HAND: &str = "
    CREATE TABLE public.users (id uuid PRIMARY KEY, tenant_id varchar NOT NULL,
                               role varchar(20) NOT NULL DEFAULT 'citizen');
    INSERT INTO public.users VALUES ('8f14e45f-0000-4000-8000-000000000000',
                                     '00000000-0000-0000-0000-000000000001', 'citizen');
    GRANT ALL ON public.tickets, public.users TO anon, authenticated;
    ALTER TABLE public.tickets ENABLE ROW LEVEL SECURITY;
    ALTER TABLE public.users ENABLE ROW LEVEL SECURITY;
    CREATE POLICY tenant_select_users ON public.users FOR SELECT TO authenticated
        USING (tenant_id = auth.jwt() -> 'app_metadata' ->> 'tenant_id');
    CREATE POLICY tenant_update_users ON public.users FOR UPDATE TO authenticated
        USING (tenant_id = auth.jwt() -> 'app_metadata' ->> 'tenant_id');
    CREATE POLICY citizen_own_tickets ON public.tickets FOR SELECT TO authenticated
        USING (created_by = auth.jwt() ->> 'sub' AND NOT is_sensitive);
    CREATE POLICY tenant_update_tickets ON public.tickets FOR UPDATE TO authenticated
        USING (tenant_id = auth.jwt() -> 'app_metadata' ->> 'tenant_id')";

const PROTECT: [&str; 2] = [
    "SELECT * FROM civic.protect('public.tickets')",
    "SELECT * FROM civic.protect('public.users', owner_columns => '{id}')",
];

const CLOSE: &str = "UPDATE tickets SET status = 'closed'";
const TAKE_OVER: &str =
    "UPDATE tickets SET is_sensitive = false, created_by = '8f14e45f-0000-4000-8000-000000000000'";
const BECOME_ADMIN: &str =
    "UPDATE users SET role = 'admin' WHERE id = '8f14e45f-0000-4000-8000-000000000000'";

/// The result of a statement, which is then rolled back.
fn tried(person: &mut Person, statement: &str) -> String {
    person.run("BEGIN");
    let happened = person.run(statement);
    person.run("ROLLBACK");
    happened
}

pub fn play(
    story: &mut Story,
    server: &Server,
    owner: &mut postgres::Client,
) -> Result<(), postgres::Error> {
    story.chapter("The tickets themselves follow the same rules");
    owner.batch_execute(BY_HAND)?;
    story.note("The application's own policies let each member of a municipality update its rows.");
    let mut citizen = server.person(TSHWANE, "citizen")?;
    for (what, statement, rows) in [
        ("A citizen closes every ticket of Tshwane", CLOSE, "2 rows"),
        ("A citizen makes the GBV tickets their own", TAKE_OVER, "2 rows"),
        ("A citizen becomes an admin", BECOME_ADMIN, "1 row"),
    ] {
        story.statement(statement);
        story.step(what, rows, &tried(&mut citizen, statement), None);
    }
    for statement in PROTECT {
        story.statement(statement);
        for row in owner.query(statement, &[])? {
            story.row(&[row.get(0), row.get(1), row.get(2)]);
        }
    }
    for (what, statement) in [
        ("A citizen closes every ticket of Tshwane", CLOSE),
        ("A citizen makes the GBV tickets their own", TAKE_OVER),
        ("A citizen becomes an admin", BECOME_ADMIN),
        ("A citizen deletes every ticket", "DELETE FROM tickets"),
    ] {
        story.step(what, "0 rows", &tried(&mut citizen, statement), None);
    }
    story.step(
        "A citizen empties the table",
        &refused("42501"),
        &tried(&mut citizen, "TRUNCATE tickets"),
        None,
    );
    let mut manager = server.person(TSHWANE, "manager")?;
    story.step(
        "A manager changes the ordinary tickets only",
        "1 row",
        &tried(&mut manager, CLOSE),
        None,
    );
    story.step(
        "A manager makes a citizen an admin",
        &refused("42501"),
        &tried(&mut manager, BECOME_ADMIN),
        None,
    );
    let mut admin = server.person(TSHWANE, "ADMIN")?;
    story.step("An admin may", "1 row", &tried(&mut admin, BECOME_ADMIN), None);
    Ok(())
}
