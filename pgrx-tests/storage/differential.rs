//! Compares the rules with the plain policies that they replace: both decide thousands of generated
//! questions on one server. Each difference must have a named reason and be the intended one.

mod question;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use question::{Asker, BUCKETS, Random, askers, objects};

use crate::pg_tests::support::{Database, MIGRATIONS, Session, literal};

/// Reasons for different answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    /// The plain policies accept any upload whose first folder is the tenant's.
    MalformedUploadPath,
    /// The plain policies know roles only in lower case.
    CaseOfRole,
    /// The plain policies accept an empty text, a directory, and any JSON value's text as a tenant.
    UnusableTenant,
    /// The plain policies treat JSON that is not an object as claims without a tenant, and report
    /// invalid JSON with another SQLSTATE and the value in the message.
    InvalidClaims,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Command {
    Read,
    Update,
    Delete,
    /// An upload over an existing object, or of a new one.
    Upsert,
    UpsertNew,
    Upload,
    UploadReturning,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Allowed,
    Refused,
    Error(String),
}

/// A database with the objects, and a function that tries every upload of them as the caller.
fn prepare(database: &Database, setup: &str, objects: &[(&str, String)]) -> Session {
    let mut superuser = database.superuser();
    superuser.run(setup);
    let buckets = BUCKETS.map(literal).join(", ");
    superuser.run(&format!(
        "INSERT INTO storage.buckets (id, name) SELECT id, id FROM unnest(ARRAY[{buckets}]) AS id
         ON CONFLICT DO NOTHING"
    ));
    let rows: Vec<_> = objects
        .iter()
        .enumerate()
        .map(|(number, (bucket, name))| {
            format!("({number}, {}, {})", literal(bucket), literal(name))
        })
        .collect();
    superuser.run(&format!(
        "CREATE TABLE public.question (number integer, bucket text, name text);
         INSERT INTO public.question VALUES {};
         INSERT INTO storage.objects (bucket_id, name) SELECT bucket, name FROM public.question;
         GRANT SELECT ON public.question TO PUBLIC",
        rows.join(", ")
    ));
    superuser.run(
        "CREATE FUNCTION public.answers(command text) RETURNS TABLE (number integer, answer text)
         LANGUAGE plpgsql AS $$
         DECLARE
             q public.question;
         BEGIN
             FOR q IN SELECT * FROM public.question LOOP
                 number := q.number;
                 BEGIN
                     CASE command
                     WHEN 'Upload' THEN
                         INSERT INTO storage.objects (bucket_id, name) VALUES (q.bucket, q.name);
                     WHEN 'UploadReturning' THEN
                         INSERT INTO storage.objects (bucket_id, name) VALUES (q.bucket, q.name)
                         RETURNING bucket_id INTO q.bucket;
                     ELSE
                         INSERT INTO storage.objects (bucket_id, name) VALUES (q.bucket, q.name)
                         ON CONFLICT (bucket_id, name) DO UPDATE SET version = 'x';
                     END CASE;
                     RAISE SQLSTATE 'CIVOK';
                 EXCEPTION WHEN OTHERS THEN
                     answer := SQLSTATE;
                 END;
                 RETURN NEXT;
             END LOOP;
         END $$",
    );
    superuser.run("SET storage.allow_delete_query = 'true'");
    superuser
}

fn answer(sqlstate: &str) -> Answer {
    match sqlstate {
        "CIVOK" => Answer::Allowed,
        "42501" => Answer::Refused,
        other => Answer::Error(other.to_owned()),
    }
}

/// The answers of a database to each question.
fn answers(session: &mut Session, command: Command) -> BTreeMap<usize, Answer> {
    let number =
        |text: &Option<String>| text.as_deref().and_then(|text| text.parse().ok()).unwrap();
    let one_by_one = format!("SELECT * FROM public.answers('{command:?}')");
    let in_one = match command {
        Command::Read => {
            "SELECT q.number FROM storage.objects AS o JOIN public.question AS q
                          ON o.bucket_id = q.bucket AND o.name = q.name"
        }
        Command::Update => {
            "UPDATE storage.objects AS o SET version = 'x' FROM public.question AS q
                            WHERE o.bucket_id = q.bucket AND o.name = q.name RETURNING q.number"
        }
        Command::Delete => {
            "DELETE FROM storage.objects AS o USING public.question AS q
                            WHERE o.bucket_id = q.bucket AND o.name = q.name RETURNING q.number"
        }
        _ => {
            let rows = session.rows(&one_by_one);
            return rows
                .iter()
                .map(|row| (number(&row[0]), answer(row[1].as_deref().expect("an SQLSTATE"))))
                .collect();
        }
    };
    session.run("BEGIN");
    let error = session.client().batch_execute(in_one).err();
    session.run("ROLLBACK; BEGIN");
    let found = if error.is_none() { session.rows(in_one) } else { vec![] };
    session.run("ROLLBACK");
    let found: BTreeSet<usize> = found.iter().map(|row| number(&row[0])).collect();
    let refusal = error.map_or(Answer::Refused, |error| answer(error.code().unwrap().code()));
    let all = session.rows("SELECT number FROM public.question");
    all.iter()
        .map(|row| number(&row[0]))
        .map(|number| {
            (number, if found.contains(&number) { Answer::Allowed } else { refusal.clone() })
        })
        .collect()
}

/// Every reason that explains the difference, with what it may change.
fn reasons(
    asker: &Asker,
    (bucket, name): &(&str, String),
    command: Command,
    (theirs, ours): (&Answer, &Answer),
) -> Vec<Reason> {
    use Answer::{Allowed, Refused};
    let claims: Result<Value, _> = serde_json::from_str(&asker.claims);
    let is_invalid =
        !asker.claims.is_empty() && !matches!(claims, Ok(Value::Object(_) | Value::Null));
    let is_unusable = match &asker.tenant {
        Value::String(tenant) => matches!(tenant.as_str(), "" | "." | ".."),
        Value::Null | Value::Number(_) => false,
        _ => true,
    };
    let is_in_another_case = asker.role.as_str().is_some_and(|role| {
        let lower = role.to_lowercase();
        lower != role && ["manager", "saps_liaison", "admin"].contains(&lower.as_str())
    });
    let is_upload = !matches!(command, Command::Read | Command::Update | Command::Delete);
    let is_malformed =
        name.split('/').count() < 3 || name.split('/').any(|part| ["", ".", ".."].contains(&part));
    let narrower = (theirs, ours) == (&Allowed, &Refused);
    let wider = (theirs, ours) == (&Refused, &Allowed);
    let invalid = *ours == Answer::Error("28000".to_owned())
        && (*theirs == Refused || *theirs == Answer::Error("22P02".to_owned()));
    [
        (Reason::InvalidClaims, is_invalid && invalid),
        (Reason::UnusableTenant, is_unusable && narrower),
        (Reason::CaseOfRole, is_in_another_case && *bucket == "gbv-evidence" && wider),
        (Reason::MalformedUploadPath, !is_unusable && is_upload && is_malformed && narrower),
    ]
    .into_iter()
    .filter_map(|(reason, applies)| applies.then_some(reason))
    .collect()
}

#[test]
fn ours_differs_from_the_plain_policies_only_where_intended() {
    let mut random = Random(20_260_101);
    let askers = askers(&mut random);
    let objects = objects(&mut random);
    let (plain, guarded) = (Database::supabase(), Database::guarded());
    let mut plain = prepare(&plain, MIGRATIONS, &objects);
    let mut guarded = prepare(&guarded, "SELECT", &objects);

    let mut decided = 0;
    let mut allowed_by_both = 0;
    let mut differences: BTreeMap<(Reason, Command), usize> = BTreeMap::new();
    for commands in [
        &[Command::Read, Command::Update, Command::Delete, Command::Upsert][..],
        &[Command::Upload, Command::UploadReturning, Command::UpsertNew],
    ] {
        for asker in &askers {
            for session in [&mut plain, &mut guarded] {
                session.acts_as("authenticated", &asker.claims);
            }
            for command in commands {
                let theirs = answers(&mut plain, *command);
                let ours = answers(&mut guarded, *command);
                assert_eq!((theirs.len(), ours.len()), (objects.len(), objects.len()));
                for (number, object) in objects.iter().enumerate() {
                    let (theirs, ours) = (&theirs[&number], &ours[&number]);
                    decided += 1;
                    if theirs == ours {
                        allowed_by_both += usize::from(*ours == Answer::Allowed);
                        continue;
                    }
                    match reasons(asker, object, *command, (theirs, ours))[..] {
                        [reason] => *differences.entry((reason, *command)).or_default() += 1,
                        ref reasons => panic!(
                            "{command:?} {object:?} with {}: theirs {theirs:?}, ours {ours:?}, \
                             for {reasons:?}",
                            asker.claims
                        ),
                    }
                }
            }
        }
        // The second round finds none of the objects.
        for session in [&mut plain, &mut guarded] {
            session.run("RESET ROLE; DELETE FROM storage.objects");
        }
    }

    assert!(decided > 100_000, "{decided}");
    assert!(allowed_by_both > 500, "{allowed_by_both}");
    // No policy allows changes or removals. Whether the claims are read first depends on the
    // planner and the PostgreSQL version.
    differences.retain(|key, _| {
        key.0 != Reason::InvalidClaims || !matches!(key.1, Command::Update | Command::Delete)
    });
    use Command::{Read, Upload, UploadReturning, Upsert, UpsertNew};
    let expected = [
        (Reason::InvalidClaims, &[Read, Upsert, UpsertNew, Upload, UploadReturning][..]),
        (Reason::UnusableTenant, &[Read, UpsertNew, Upload, UploadReturning]),
        (Reason::CaseOfRole, &[Read, UpsertNew, Upload, UploadReturning]),
        (Reason::MalformedUploadPath, &[UpsertNew, Upload, UploadReturning]),
    ];
    let expected: BTreeSet<_> = expected
        .into_iter()
        .flat_map(|(reason, commands)| commands.iter().map(move |command| (reason, *command)))
        .collect();
    let seen: BTreeSet<_> = differences.keys().copied().collect();
    assert_eq!(seen, expected, "{differences:?}");
}
