//! Files of one bucket that go to another.

use civic_fake_services::{Moves, Options, Storage};

use super::*;
use crate::{Kind, LIST_PAGE, Place};

fn at(bucket: &'static str) -> Place<'static> {
    Place { bucket, path: PATH }
}

#[test]
fn a_file_is_moved_or_copied_to_another_bucket() {
    let storage = storage();
    let api = api(&storage);
    storage.keep("evidence", PATH, "image/jpeg", "bytes");
    api.copy_to(at("evidence"), at("gbv-evidence"), &Cancel::new()).unwrap();
    assert!(storage.object("evidence", PATH).is_some());
    assert_eq!(storage.object("gbv-evidence", PATH).unwrap().body, b"bytes");
    let moved = api.move_to(at("evidence"), at("gbv-evidence"), &Cancel::new());
    assert_eq!(moved.unwrap_err().kind(), Kind::Duplicate);
    api.move_to(at("evidence"), at("documents"), &Cancel::new()).unwrap();
    assert!(storage.object("evidence", PATH).is_none());
    assert_eq!(storage.object("documents", PATH).unwrap().content_type, "image/jpeg");
    let missing = api.move_to(at("evidence"), at("documents"), &Cancel::new());
    assert_eq!(missing.unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn an_api_that_knows_no_other_bucket_says_that_it_has_moved_the_file() {
    let storage = Storage::start(Options { moves: Moves::WithinBucket, ..Options::default() });
    storage.keep("evidence", PATH, "image/jpeg", "bytes");
    api(&storage).move_to(at("evidence"), at("gbv-evidence"), &Cancel::new()).unwrap();
    assert!(storage.object("evidence", PATH).is_some());
    assert_eq!(api(&storage).stat("gbv-evidence", PATH, &Cancel::new()).unwrap(), None);
}

#[test]
fn a_folder_is_listed_page_by_page() {
    let storage = storage();
    for n in 0..LIST_PAGE {
        storage.keep("evidence", &format!("t/f/{n:03}.jpg"), "image/jpeg", "x");
    }
    storage.keep("evidence", "t/f/sub/a.jpg", "image/jpeg", "x");
    storage.keep("evidence", "t/fa/a.jpg", "image/jpeg", "x");
    let list = |offset| api(&storage).list("evidence", "t/f", offset, &Cancel::new()).unwrap();
    let (first, second) = (list(0), list(LIST_PAGE));
    assert_eq!((first.len(), second.len()), (LIST_PAGE, 1));
    assert_eq!((first[0].name.as_str(), first[0].is_folder), ("000.jpg", false));
    assert_eq!((second[0].name.as_str(), second[0].is_folder), ("sub", true));
}
