//! The house has floors: a module imports from its own floor and from those below it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The rooms, the lowest floor first.
const FLOORS: [&[&str]; 7] = [
    &["pg"],
    &["error", "settings"],
    &["catalog", "claims"],
    &["tickets"],
    &["storage", "events", "relay", "media"],
    &["setup", "metrics"],
    &["lib"],
];

/// What a room of a floor takes from another room of it, and of which modules.
const DOORS: [(&str, &str, &[&str]); 4] = [
    ("media", "storage", &["api", "attachment", "bucket", "path", "StorageError"]),
    ("media", "events", &["channel", "payload", "publish", "report"]),
    ("events", "relay", &["initialize", "prepared", "transaction"]),
    ("relay", "events", &["buffer", "EventError"]),
];

fn floor(room: &str) -> usize {
    FLOORS.iter().position(|rooms| rooms.contains(&room)).unwrap_or_else(|| {
        panic!("room {room} has no floor: add it to FLOORS");
    })
}

/// The files of `src` but for tests, as paths of modules (`events::channel`), with what stands in them.
fn modules() -> BTreeMap<String, String> {
    fn visit(folder: &Path, prefix: &str, found: &mut BTreeMap<String, String>) {
        for entry in std::fs::read_dir(folder).expect("it is there").map(Result::unwrap) {
            let path = entry.path();
            let name = path.file_stem().expect("it has a name").to_string_lossy().into_owned();
            let module = if prefix.is_empty() { name } else { format!("{prefix}::{name}") };
            if path.is_dir() {
                visit(&path, &module, found);
            } else if !module.ends_with("::tests") {
                let text = std::fs::read_to_string(&path).expect("it is text");
                found.insert(module, code_of(&text));
            }
        }
    }
    let mut found = BTreeMap::new();
    visit(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), "", &mut found);
    found
}

/// A file's code, without comments and the tests at its end.
fn code_of(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// Every path that begins with `crate::`, groups in braces taken apart.
fn imports(code: &str) -> BTreeSet<String> {
    fn take<'a>(text: &'a str, prefix: &str, found: &mut BTreeSet<String>) -> &'a str {
        let end = text
            .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
            .unwrap_or(text.len());
        // A path in a macro's text may be followed by a type's own `::<`.
        let path = format!("{prefix}{}", &text[..end]);
        let mut rest = &text[end..];
        if !path.ends_with("::") {
            found.insert(path);
            return rest;
        }
        let Some(group) = rest.strip_prefix('{') else { return rest };
        rest = group;
        loop {
            rest = take(rest.trim_start(), &path, found);
            rest = rest.trim_start();
            match rest.strip_prefix(',') {
                Some(next) if next.trim_start().starts_with('}') => break,
                Some(next) => rest = next,
                None => break,
            }
        }
        rest
    }
    let mut found = BTreeSet::new();
    for (start, _) in code.match_indices("crate::") {
        take(&code[start + "crate::".len()..], "", &mut found);
    }
    found
}

fn room(module: &str) -> &str {
    module.split("::").next().unwrap_or(module)
}

#[test]
fn no_module_imports_from_a_floor_above_its_own() {
    let mut upward = vec![];
    for (module, code) in modules() {
        for import in imports(&code) {
            let (from, to) = (room(&module), room(&import));
            if to.is_empty() || from == "lib" {
                continue;
            }
            let is_open = || {
                let inner = import.split("::").nth(1).unwrap_or_default();
                DOORS.iter().any(|(user, used, doors)| {
                    *user == from && *used == to && doors.contains(&inner)
                })
            };
            let is_allowed =
                from == to || floor(to) < floor(from) || floor(to) == floor(from) && is_open();
            if !is_allowed {
                upward.push(format!("{module} imports {import}"));
            }
        }
    }
    assert!(upward.is_empty(), "upward or through no door:\n{}", upward.join("\n"));
}

#[test]
fn pg_imports_nothing_of_the_crate() {
    for (module, code) in modules() {
        if room(&module) == "pg" {
            let foreign: Vec<_> =
                imports(&code).into_iter().filter(|import| room(import) != "pg").collect();
            assert!(foreign.is_empty(), "{module} imports {foreign:?}");
        }
    }
}

/// The module that an import names: the longest path that is one.
fn module_of<'a>(import: &'a str, modules: &BTreeMap<String, String>) -> Option<&'a str> {
    let mut path = import;
    loop {
        if modules.contains_key(path) {
            return Some(path);
        }
        path = path.rsplit_once("::")?.0;
    }
}

/// `super::x` of a module, as a path from the crate's root.
fn absolute(module: &str, code: &str) -> String {
    let parent = |path: &str| path.rsplit_once("::").map_or(String::new(), |(it, _)| it.to_owned());
    let one = parent(module);
    let two = parent(&one);
    code.replace("super::super::", &format!("crate::{two}::"))
        .replace("super::", &format!("crate::{one}::"))
        .replace("crate::::", "crate::")
}

/// A module and the one that it is in may use each other; two others may not, however long the way.
#[test]
fn no_modules_import_each_other_in_a_circle() {
    let modules = modules();
    let is_within = |inner: &str, outer: &str| inner.starts_with(&format!("{outer}::"));
    let mut graph: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (module, code) in &modules {
        let edges = imports(&absolute(module, code)).into_iter().filter_map(|import| {
            let target = module_of(&import, &modules)?.to_owned();
            let is_family = is_within(&target, module) || is_within(module, &target);
            (target != *module && !is_family && module != "lib").then_some(target)
        });
        graph.insert(module, edges.collect());
    }
    let mut circles = vec![];
    for start in graph.keys() {
        let (mut seen, mut left) = (BTreeSet::new(), vec![(*start).to_owned()]);
        while let Some(module) = left.pop() {
            for next in &graph[module.as_str()] {
                if next == start {
                    circles.push(format!("{module} imports {start}, which leads to it"));
                }
                if seen.insert(next.clone()) {
                    left.push(next.clone());
                }
            }
        }
    }
    assert!(circles.is_empty(), "circles:\n{}", circles.join("\n"));
}
