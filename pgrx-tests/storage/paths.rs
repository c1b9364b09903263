//! Buckets and paths as SQL returns them.

use crate::pg_tests::support::{Database, Session, TENANT, literal};

/// The path for a filename, in one folder.
fn path(session: &mut Session, filename: &str) -> String {
    session.text(&format!("SELECT civic.object_path('t', 'f', {})", literal(filename)))
}

#[test]
fn each_purpose_has_its_bucket() {
    let mut session = Database::plain().superuser();
    for (purpose, bucket) in [
        ("evidence", "evidence"),
        ("documents", "documents"),
        ("proof_of_residence", "documents"),
        ("gbv-evidence", "gbv-evidence"),
    ] {
        let found = session.text(&format!("SELECT civic.bucket_for_purpose('{purpose}')"));
        assert_eq!(found, bucket, "{purpose}");
    }
    assert_eq!(session.text("SELECT civic.bucket_for_media(true)"), "gbv-evidence");
    assert_eq!(session.text("SELECT civic.bucket_for_media(false)"), "evidence");
    // Without knowing whether a ticket is sensitive there is no answer.
    assert_eq!(session.value("SELECT civic.bucket_for_media(NULL)"), None);
    assert_eq!(session.value("SELECT civic.bucket_for_purpose(NULL)"), None);
}

#[test]
fn an_unknown_purpose_is_an_error_that_lists_the_purposes() {
    let mut session = Database::plain().superuser();
    for purpose in
        ["", "gbv", "gbv_evidence", "GBV-EVIDENCE", "Evidence", "evidence ", "evidence\n", "'; --"]
    {
        let purpose = literal(purpose);
        for statement in [
            format!("SELECT civic.bucket_for_purpose({purpose})"),
            format!("SELECT civic.generate_upload_url({purpose}, 't', 'f', 'a.jpg', 'image/jpeg')"),
        ] {
            let error = session.error(&statement);
            assert_eq!(error.code().code(), "22023", "{statement}");
            let hint = error.hint().expect("a hint");
            for known in ["evidence", "documents", "gbv-evidence", "proof_of_residence"] {
                assert!(hint.contains(known), "{statement}: {hint}");
            }
        }
    }
    let error = session.error("SELECT civic.bucket_for_purpose(repeat('x', 1000000))");
    assert!(error.message().len() < 200, "the message cuts the value");
}

#[test]
fn an_extension_follows_the_media_type() {
    let mut session = Database::plain().superuser();
    for (content_type, extension) in [
        ("image/jpeg", "jpg"),
        ("image/png", "png"),
        ("image/gif", "gif"),
        ("image/webp", "webp"),
        ("application/pdf", "pdf"),
        ("video/mp4", "mp4"),
        ("video/quicktime", "mov"),
        ("IMAGE/JPEG; charset=binary", "jpg"),
        ("text/html", "bin"),
        ("image/jpeg/../../x", "bin"),
        ("", "bin"),
    ] {
        let found = session.text(&format!("SELECT civic.file_extension('{content_type}')"));
        assert_eq!(found, extension, "{content_type:?}");
    }
    assert_eq!(session.text("SELECT civic.file_extension(repeat('a/', 127))"), "bin");
}

#[test]
fn a_path_is_tenant_folder_and_the_name_made_safe() {
    let mut session = Database::plain().superuser();
    for (filename, safe) in [
        ("photo.jpg", "photo.jpg"),
        ("My photo (2) - final.JPG", "My photo (2) - final.JPG"),
        ("../../other/x/photo.jpg", "photo.jpg"),
        ("..\\..\\photo.jpg", "photo.jpg"),
        ("C:\\Users\\me\\photo.jpg", "photo.jpg"),
        ("/etc/passwd", "passwd"),
        (".htaccess", "htaccess"),
        ("...photo.jpg", "photo.jpg"),
        ("photo.jpg.", "photo.jpg"),
        (" photo.jpg\t", "photo.jpg"),
        // The Storage API rejects square brackets.
        ("a\nb\r\u{1b}[31m\u{7f}c.png", "a_b_31m_c.png"),
        ("a%2e%2e%2fb.jpg", "a_2e_2e_2fb.jpg"),
        ("a#b?c&d.jpg", "a_b_c&d.jpg"),
        ("caf\u{e9}.jpg", "caf_.jpg"),
        ("cafe\u{301}.jpg", "cafe_.jpg"),
        ("\u{202e}gpj.exe", "_gpj.exe"),
        ("a\u{2215}b\u{ff0f}c.jpg", "a_b_c.jpg"),
        ("archive.tar.gz", "archive.tar.gz"),
        ("'; DROP TABLE tickets; --.pdf", "'; DROP TABLE tickets; --.pdf"),
    ] {
        assert_eq!(path(&mut session, filename), format!("t/f/{safe}"), "{filename:?}");
    }
}

#[test]
fn a_safe_name_is_accepted_by_the_storage_api_and_does_not_change_again() {
    let mut session = Database::plain().superuser();
    // Every character of the older scripts and many others, at the start, in the middle and at the
    // end.
    let answer = session.rows(
        r"WITH name AS (
              SELECT replace(pattern, '%s', chr(code)) AS given
              FROM (SELECT generate_series(1, 12287)
                    UNION ALL SELECT generate_series(12288, 1114111, 4093)) AS c (code),
                   unnest(ARRAY['%sa.jpg', 'a%sb.jpg', 'a.jpg%s', 'a.%s', 'x/%s/..%sy']) AS pattern
              WHERE code NOT BETWEEN 55296 AND 57343
                AND NOT (right(pattern, 2) = '%s' AND chr(code) IN ('/', '\')))
          SELECT count(*),
                 count(*) FILTER (WHERE path !~ '^t/f/[A-Za-z0-9_!.*''() &$@=;:+,-]+$'),
                 count(*) FILTER (WHERE path ~ '/\.' OR path ~ '\.$'),
                 count(*) FILTER (WHERE civic.object_path('t', 'f', split_part(path, '/', 3)) <> path)
          FROM (SELECT civic.object_path('t', 'f', given) AS path FROM name) AS made",
    );
    let counts: Vec<_> = answer[0].iter().map(|count| count.as_deref().unwrap()).collect();
    assert_eq!(counts[1..], ["0", "0", "0"]);
    assert!(counts[0].parse::<u32>().unwrap() > 60_000);
}

#[test]
fn the_last_extension_survives_a_cut() {
    let mut session = Database::plain().superuser();
    for (given, ends) in [
        ("repeat('x', 1020) || '.jpg'", "x.jpg"),
        ("repeat('x', 255) || '.tar.gz'", "x.gz"),
        ("repeat('.', 1000) || 'a.pdf'", "/a.pdf"),
        ("repeat('../', 300) || 'a.pdf'", "/a.pdf"),
        ("repeat('a.', 500) || 'jpg'", "a.jpg"),
        ("repeat('\u{1f4f7}', 250) || 'a.mp4'", "/_a.mp4"),
    ] {
        let path = session.text(&format!("SELECT civic.object_path('t', 'f', {given})"));
        assert!(path.ends_with(ends), "{given}: {path}");
        assert!(path.len() <= "t/f/".len() + 255, "{given}: {path}");
    }
}

#[test]
fn a_name_that_cannot_be_made_safe_is_rejected_with_the_reason() {
    let mut session = Database::plain().superuser();
    for filename in [".", "..", "...", "/", "a/", "a/..", " ", "\t\n", "\u{65e5}\u{672c}", "___"] {
        let error =
            session.error(&format!("SELECT civic.object_path('t', 'f', {})", literal(filename)));
        assert_eq!(error.code().code(), "22023", "{filename:?}");
        assert!(error.message().contains("filename"), "{error:?}");
        assert!(error.hint().is_some_and(|hint| hint.contains("photo.jpg")), "{error:?}");
        assert!(!error.message().contains(['\n', '\t']), "{error:?}");
    }
    let error = session.error("SELECT civic.object_path('t', 'f', repeat('/', 1024))");
    assert_eq!(error.code().code(), "22023");
    assert!(error.message().len() < 200, "the message cuts the value");
    let error = session.error("SELECT civic.object_path('t', 'f', repeat('/', 1025))");
    assert_eq!(error.code().code(), "54000");
    assert_eq!(
        error.message(),
        "argument \"filename\" of 1025 bytes is too long, the limit is 1024"
    );
}

#[test]
fn an_empty_part_is_rejected_by_name() {
    let mut session = Database::plain().superuser();
    for (arguments, what) in [
        ("'', 'f', 'a.jpg'", "tenant"),
        ("'t', '', 'a.jpg'", "folder"),
        ("'t', 'f', ''", "filename"),
    ] {
        for statement in [
            format!("SELECT civic.object_path({arguments})"),
            format!("SELECT civic.generate_upload_url('evidence', {arguments}, 'image/jpeg')"),
        ] {
            let error = session.error(&statement);
            assert_eq!(error.code().code(), "22023", "{statement}");
            assert_eq!(error.message(), format!("{what} must not be empty"));
        }
    }
    for arguments in ["NULL, 'f', 'a'", "'t', NULL, 'a'", "'t', 'f', NULL"] {
        assert_eq!(session.value(&format!("SELECT civic.object_path({arguments})")), None);
    }
}

#[test]
fn a_tenant_or_folder_is_rejected_and_never_changed_into_another() {
    let mut session = Database::plain().superuser();
    for bad in [
        ".",
        "..",
        "/",
        "a/b",
        "../b",
        "a/",
        "/a",
        "a\\b",
        "a\nb",
        "\u{e9}",
        "a%2fb",
        "a#",
        "a\u{2215}b",
    ] {
        let bad = literal(bad);
        for (arguments, what) in
            [(format!("{bad}, 'f', 'a.jpg'"), "tenant"), (format!("'t', {bad}, 'a.jpg'"), "folder")]
        {
            for statement in [
                format!("SELECT civic.object_path({arguments})"),
                format!("SELECT civic.generate_upload_url('evidence', {arguments}, 'image/jpeg')"),
            ] {
                let error = session.error(&statement);
                assert_eq!(error.code().code(), "22023", "{statement}");
                assert!(error.message().starts_with(what), "{error:?}");
            }
        }
    }
    for arguments in ["repeat('t', 1024), 'f', 'a'", "'t', repeat('f', 1024), 'a'"] {
        let error = session.error(&format!("SELECT civic.object_path({arguments})"));
        assert_eq!(error.code().code(), "22023");
        assert!(error.message().len() < 300, "the message cuts the value");
    }
}

#[test]
fn the_longest_path_is_accepted_by_storage() {
    let mut session = Database::plain().superuser();
    let length = session.text(
        "SELECT octet_length(civic.object_path(repeat('t', 255), repeat('f', 255),
                                               repeat('x', 300) || '.jpg'))",
    );
    assert_eq!(length, "767");
}

#[test]
fn an_upload_url_contains_bucket_path_and_file() {
    let mut session = Database::plain().superuser();
    let url = session.text(&format!(
        "SELECT civic.generate_upload_url('proof_of_residence', '{TENANT}', 'id', '../a b.pdf',
                                          'application/pdf')"
    ));
    let expected =
        format!(r#"{{"path": "{TENANT}/id/a b.pdf", "bucket": "documents", "file_id": "id"}}"#);
    assert_eq!(url, expected);
    // The upload rule accepts the result.
    session.run(&format!(
        "SELECT set_config('request.jwt.claims',
                           '{{\"app_metadata\": {{\"tenant_id\": \"{TENANT}\"}}}}', false)"
    ));
    let taken = session.text(&format!(
        "SELECT civic.can_upload_object(url ->> 'bucket', url ->> 'path')
         FROM (SELECT '{url}'::jsonb) AS made (url)"
    ));
    assert_eq!(taken, "t");
}

#[test]
fn an_invalid_media_type_is_rejected() {
    let mut session = Database::plain().superuser();
    for content_type in
        ["", "jpeg", "/", "image/", "/jpeg", "a/b/c", "image/jp eg", "image/jpeg\nX: y"]
    {
        let error = session.error(&format!(
            "SELECT civic.generate_upload_url('evidence', 't', 'f', 'a.jpg', {})",
            literal(content_type)
        ));
        assert_eq!(error.code().code(), "22023", "{content_type:?}");
        assert!(error.hint().is_some_and(|hint| hint.contains("image/jpeg")), "{error:?}");
    }
}

#[test]
fn invalid_text_never_reaches_the_functions() {
    let mut session = Database::plain().superuser();
    for (expression, sqlstate) in [
        (r"E'a\xff.jpg'", "22021"),
        (r"E'a\xc3'", "22021"),
        (r"E'\xed\xa0\x80.jpg'", "22021"),
        (r"E'a\000.jpg'", "22021"),
        (r"'a' || chr(0)", "54000"),
        (r"convert_from('\x61ff', 'UTF8')", "22021"),
        (r#"'"\u0000"'::jsonb #>> '{}'"#, "22P05"),
    ] {
        for statement in [
            format!("SELECT civic.object_path('t', 'f', {expression})"),
            format!("SELECT civic.can_upload_object('evidence', {expression})"),
            format!("SELECT civic.bucket_for_purpose({expression})"),
        ] {
            assert_eq!(session.sqlstate(&statement), sqlstate, "{statement}");
        }
    }
}

#[test]
fn the_rules_accept_names_of_a_megabyte() {
    let mut session = Database::guarded().superuser();
    session.run("SET request.jwt.claims = '{\"app_metadata\": {\"tenant_id\": \"t\"}}'");
    for (name, reads, uploads) in [
        ("'t/id/' || repeat('x', 1000000)", "t", "t"),
        ("'t/' || repeat('x/', 500000) || 'x'", "t", "t"),
        ("'t/' || repeat('/', 1000000)", "t", "f"),
        ("'t/' || repeat('../', 300000) || 'x'", "t", "f"),
        ("repeat('t', 1000000) || '/id/x'", "f", "f"),
        ("repeat('/', 1000000)", "f", "f"),
    ] {
        for (function, expected) in [
            ("civic.can_read_object", reads),
            ("civic.can_upload_object", uploads),
            ("storage.civic_firewall", reads),
            ("storage.civic_firewall_upload", uploads),
        ] {
            let answer = session.text(&format!("SELECT {function}('evidence', {name})"));
            assert_eq!(answer, expected, "{function} of {name}");
        }
    }
    assert_eq!(
        session.text("SELECT civic.can_read_object(repeat('evidence', 125000), 't/a')"),
        "f"
    );
}
