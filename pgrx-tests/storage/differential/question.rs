//! Generated questions: callers and objects, from alphabets of similar-looking values.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// The caller of a question, as generated.
pub struct Asker {
    pub claims: String,
    pub tenant: Value,
    pub role: Value,
}

/// A small random generator, reproducible (Steele, Lea, Flood: SplitMix64).
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[(self.next() % from.len() as u64) as usize]
    }
}

/// Tenants with common prefixes that resemble paths, patterns, numbers and other JSON.
const TENANTS: [&str; 26] = [
    r#""t""#,
    r#""t1""#,
    r#""t10""#,
    r#""t1.""#,
    r#""T1""#,
    r#""t ""#,
    r#""t%""#,
    r#""_""#,
    r#""%""#,
    r#""é""#,
    r#""e\u0301""#,
    r#""t\\""#,
    r#""t'""#,
    "42",
    "1.50",
    "1e2",
    r#""""#,
    r#"".""#,
    r#""..""#,
    r#""t/t""#,
    r#""/""#,
    "true",
    "null",
    "{}",
    r#"["t"]"#,
    r#"{"t": "t"}"#,
];

/// First folders for those tenants, and others that belong to no tenant.
const FOLDERS: [&str; 27] = [
    "t",
    "t1",
    "t10",
    "t1.",
    "T1",
    "t ",
    "t%",
    "_",
    "%",
    "é",
    "e\u{301}",
    "t\\",
    "t'",
    "42",
    "1.50",
    "100",
    "",
    ".",
    "..",
    "true",
    "null",
    "{}",
    r#"["t"]"#,
    r#"{"t": "t"}"#,
    "t0",
    "t!",
    "1",
];

const ROLES: [&str; 16] = [
    r#""citizen""#,
    r#""manager""#,
    r#""saps_liaison""#,
    r#""admin""#,
    r#""ward_councillor""#,
    r#""MANAGER""#,
    r#""SAPS_LIAISON""#,
    r#""Admin""#,
    r#""Saps_Liaison""#,
    r#""administrator""#,
    r#""admin ""#,
    r#""""#,
    "null",
    "true",
    r#"["admin"]"#,
    r#"{"admin": 1}"#,
];

pub const BUCKETS: [&str; 9] = [
    "evidence",
    "documents",
    "gbv-evidence",
    "EVIDENCE",
    "evidence ",
    "gbv_evidence",
    "avatars",
    "e",
    "",
];

const SEGMENTS: [&str; 12] =
    ["id", "a.jpg", "t", "t1", "", ".", "..", "...", " ", "%", "é", "a\\b"];

/// Claims without a tenant in its place, and text that is not claims.
const CLAIMS: [&str; 16] = [
    "",
    "null",
    "{}",
    r#"{"app_metadata": null}"#,
    r#"{"app_metadata": []}"#,
    r#"{"app_metadata": "t"}"#,
    r#"{"tenant_id": "t", "role": "admin"}"#,
    r#"{"user_metadata": {"tenant_id": "t", "role": "admin"}}"#,
    "[]",
    r#"["t"]"#,
    r#""t""#,
    "1",
    "true",
    "{",
    "t",
    "{} {}",
];

pub fn askers(random: &mut Random) -> Vec<Asker> {
    let mut askers: Vec<_> = CLAIMS
        .map(|claims| Asker { claims: claims.to_owned(), tenant: json!(null), role: json!(null) })
        .into();
    // Each tenant and each role at least once, then random ones.
    let pairs = TENANTS.map(|tenant| (tenant, r#""admin""#)).into_iter();
    let pairs = pairs.chain(ROLES.map(|role| (r#""t""#, role)));
    let more: Vec<_> = (0..24).map(|_| (random.pick(&TENANTS), random.pick(&ROLES))).collect();
    askers.extend(pairs.chain(more).map(|(tenant, role)| Asker {
        claims: format!(r#"{{"app_metadata": {{"tenant_id": {tenant}, "role": {role}}}}}"#),
        tenant: serde_json::from_str(tenant).expect("JSON"),
        role: serde_json::from_str(role).expect("JSON"),
    }));
    askers
}

/// Bucket and name of each object in the questions.
pub fn objects(random: &mut Random) -> Vec<(&'static str, String)> {
    let mut objects = BTreeSet::new();
    for folder in FOLDERS {
        for bucket in &BUCKETS[..3] {
            objects.insert((*bucket, format!("{folder}/id/a.jpg")));
        }
        for rest in ["", "/", "/a.jpg", "//a.jpg", "/id/", "/../id/a.jpg"] {
            objects.insert((random.pick(&BUCKETS[..3]), format!("{folder}{rest}")));
        }
    }
    while objects.len() < 320 {
        let mut name = random.pick(&FOLDERS).to_owned();
        for _ in 0..random.next() % 5 {
            name = name + "/" + random.pick(&SEGMENTS);
        }
        objects.insert((random.pick(&BUCKETS), name));
    }
    objects.into_iter().collect()
}
