//! Zip files that must be refused, each for its own reason.

use super::make_zip::{
    Around, Entry, Local, directory, end64, extra, file, stored, symlink, with_mode, zip, zip_with,
};
use super::*;

fn entry_refused(entry: Entry) -> (Option<String>, Refusal) {
    Ground::new().refusal(&zip(&[file("first.py", b"1"), entry]))
}

/// Asserts that the second entry is refused by this rule and named.
#[track_caller]
fn refused(entry: Entry, rule: &Refusal) {
    let name = format!("\"{}\"", entry.name.escape_ascii());
    let (named, found) = entry_refused(entry);
    assert_eq!(&found, rule);
    assert!(
        named.is_some_and(|named| named.starts_with(&name[..name.len().min(100)])),
        "{name}"
    );
}

#[test]
fn names_that_are_not_plain_and_inside() {
    for (name, why) in [
        ("../evil", "has a part `..`"),
        ("a/../../evil", "has a part `..`"),
        ("a/..", "has a part `..`"),
        ("..", "has a part `..`"),
        ("/etc/evil", "is absolute"),
        ("//evil", "is absolute"),
        ("a//b", "has an empty part"),
        ("a/./b", "has a part `.`"),
        (".//b", "has an empty part"),
        ("..\\evil", "has a backslash"),
        ("C:\\evil", "has a backslash"),
        ("a\0b", "has a control character"),
        ("a\nb", "has a control character"),
        ("a\x1b[2Jb", "has a control character"),
        ("a\u{9b}b", "has a control character"),
        (&"x".repeat(256), "has a part of more than 255 bytes"),
        (&vec!["a"; 65].join("/"), "has more than 64 parts"),
        (
            "abcdefg/".repeat(129).trim_end_matches('/'),
            "has more than 1024 bytes",
        ),
    ] {
        refused(file(name, b"x"), &Refusal::Path(why));
    }
    let raw = |name: &[u8], flags: u16| Entry {
        name: name.to_vec(),
        flags,
        ..file("x", b"x")
    };
    refused(raw(b"", 0), &Refusal::Path("is empty"));
    refused(raw(b"\xff\xfe", 1 << 11), &Refusal::Path("is not UTF-8"));
    // In which alphabet? Readers differ.
    let two_forms = Refusal::Path("is not marked as UTF-8, or has a second form");
    refused(raw(b"caf\xc3\xa9", 0), &two_forms);
    let second = extra(0x7075, b"\x01\0\0\0\0../evil");
    refused(
        Entry {
            extra: second,
            ..file("good.py", b"x")
        },
        &two_forms,
    );
}

#[test]
fn links_that_lead_out() {
    for (name, target, why) in [
        ("l", "..", "leads out of the bundle"),
        ("l", "../canary", "leads out of the bundle"),
        ("d/l", "../../canary", "leads out of the bundle"),
        ("l", "d/../../canary", "leads out of the bundle"),
        ("l", "/etc/passwd", "is absolute"),
        ("l", "", "is empty"),
        ("l", "a\\b", "has a backslash"),
        ("l", "a\0b", "has a control character"),
    ] {
        refused(symlink(name, target), &Refusal::Target(why));
    }
    refused(
        symlink("l", &"x/".repeat(513)),
        &Refusal::Target("has more than 1024 bytes"),
    );
}

#[test]
fn links_that_lead_out_by_way_of_others() {
    let ground = Ground::new();
    let (entry, rule) = ground.refusal(&zip(&[
        file("a/b/c", b"x"),
        symlink("a/b/up", "../.."),
        // By itself a/b/up/.. is a/b.
        symlink("out", "a/b/up/.."),
    ]));
    assert_eq!(entry.as_deref(), Some("\"out\""));
    assert_eq!(
        rule,
        Refusal::Target("leads out of the bundle by way of other links")
    );
    // In the other order: the first leads nowhere until the second is there.
    let (_, rule) = ground.refusal(&zip(&[
        file("f", b"x"),
        symlink("out", "d/up/../secret"),
        symlink("d/up", ".."),
    ]));
    assert_eq!(
        rule,
        Refusal::Target("leads out of the bundle by way of other links")
    );
}

#[test]
fn paths_through_links_and_files() {
    let through = |entries: &[Entry], expected: Refusal| {
        assert_eq!(Ground::new().refusal(&zip(entries)).1, expected);
    };
    through(
        &[directory("d/"), symlink("l", "d"), file("l/x", b"1")],
        Refusal::ThroughLink,
    );
    through(
        &[file("f", b"1"), symlink("l", "."), directory("l/d/")],
        Refusal::ThroughLink,
    );
    through(&[file("f", b"1"), file("f/x", b"1")], Refusal::ThroughLink);
    through(
        &[symlink("l", "x"), file("l", b"written through the link")],
        Refusal::Duplicate,
    );
    through(
        &[file("f", b"1"), symlink("l", "f"), directory("l/")],
        Refusal::ThroughLink,
    );
}

#[test]
fn paths_given_twice() {
    let twice = |one: Entry, two: Entry| {
        let (entry, rule) = Ground::new().refusal(&zip(&[one, two]));
        assert_eq!(rule, Refusal::Duplicate);
        entry
    };
    assert_eq!(
        twice(file("a", b"1"), file("a", b"2")).as_deref(),
        Some("\"a\"")
    );
    twice(file("a", b"1"), file("./a", b"2"));
    twice(file("a/b", b"1"), file("a", b"2"));
    twice(directory("a/"), symlink("a", "b"));
}

#[test]
fn kinds_that_are_not_taken() {
    for (mode, what) in [
        (0o020_666, "character device"),
        (0o060_666, "block device"),
        (0o010_644, "FIFO"),
        (0o140_755, "socket"),
        (0o150_000, "special entry of a kind that is not known"),
    ] {
        refused(with_mode(mode, stored("x", b"")), &Refusal::Kind(what));
    }
    refused(with_mode(0o104_755, file("x", b"1")), &Refusal::SetId);
    refused(with_mode(0o102_755, file("x", b"1")), &Refusal::SetId);
    let disagree = Refusal::Malformed("its name and its mode disagree about what it is");
    refused(with_mode(0o100_644, stored("x/", b"")), &disagree);
    refused(with_mode(0o040_755, stored("x", b"")), &disagree);
    refused(with_mode(0o120_777, stored("x/", b"y")), &disagree);
    let content = Refusal::Content("is that of a directory, which has none");
    refused(with_mode(0o040_755, stored("x/", b"hidden")), &content);
}

#[test]
fn headers_that_disagree() {
    let disagree = Refusal::Malformed("the header before its content disagrees with the directory");
    let local = |local: Local| Entry {
        local,
        ..file("x.py", b"content content content")
    };
    let none = Local::default();
    for lie in [
        Local {
            name: Some(b"../x".to_vec()),
            ..none.clone()
        },
        Local {
            name: Some(b"y.py".to_vec()),
            ..none.clone()
        },
        Local {
            method: Some(0),
            ..none.clone()
        },
        Local {
            flags: Some(1 << 3),
            ..none.clone()
        },
        Local {
            crc: Some(1),
            ..none.clone()
        },
        Local {
            crc: Some(0),
            ..none.clone()
        },
        Local {
            size: Some(1),
            ..none.clone()
        },
        Local {
            packed_size: Some(1),
            ..none.clone()
        },
        Local {
            extra: Some(extra(0x7075, b"\x01\0\0\0\0other")),
            ..none.clone()
        },
    ] {
        refused(local(lie), &disagree);
    }
    let points = Refusal::Malformed("its directory points to something that is no entry");
    // Some place inside the first entry, which is then overlapped.
    let first = Entry {
        offset: Some(3),
        ..stored("x.py", b"PK")
    };
    assert_eq!(
        Ground::new().refusal(&zip(&[first])).1,
        Refusal::Stray("before its first entry")
    );
    let mut packed = zip(&[file("x.py", b"x")]);
    packed[2..4].copy_from_slice(&[5, 6]);
    assert_eq!(Ground::new().refusal(&packed).1, points);
}

#[test]
fn content_that_is_not_what_was_announced() {
    let whole = file("x", b"content content content");
    let packed = |packed: &[u8]| Entry {
        packed: packed.to_vec(),
        packed_size: packed.len() as u64,
        ..whole.clone()
    };
    let wrong = Refusal::Content("does not match its checksum");
    refused(
        Entry {
            crc: whole.crc ^ 1,
            ..whole.clone()
        },
        &wrong,
    );
    refused(
        Entry {
            size: 10,
            ..whole.clone()
        },
        &Refusal::Content("is longer than announced"),
    );
    refused(
        Entry {
            size: 100,
            ..whole.clone()
        },
        &Refusal::Content("is shorter than announced"),
    );
    let cut = &whole.packed[..whole.packed.len() - 2];
    refused(packed(cut), &Refusal::Content("breaks off"));
    let longer = [&whole.packed[..], b"hidden"].concat();
    refused(
        packed(&longer),
        &Refusal::Stray("after its compressed content"),
    );
    refused(
        packed(b"\xff\xff\xff\xff"),
        &Refusal::Content("is not valid compressed data"),
    );
    let other = Refusal::Malformed("it is stored as it is, but in another size");
    refused(
        Entry {
            size: 3,
            ..stored("x", b"four")
        },
        &other,
    );
}

#[test]
fn features_that_are_not_taken() {
    for (method, what) in [
        (9, "Deflate64 compression"),
        (12, "bzip2 compression"),
        (14, "LZMA compression"),
        (93, "Zstandard compression"),
        (99, "a compression that is not known"),
    ] {
        refused(
            Entry {
                method,
                ..file("x", b"1")
            },
            &Refusal::Unsupported(what),
        );
    }
    for flags in [1, 1 << 6, 1 << 13] {
        refused(
            Entry {
                flags,
                ..file("x", b"1")
            },
            &Refusal::Unsupported("encryption"),
        );
    }
    let around = Around {
        disk: 1,
        ..Around::default()
    };
    let packed = zip_with(&[file("x", b"1")], &around);
    assert_eq!(
        Ground::new().refusal(&packed).1,
        Refusal::Unsupported("several volumes")
    );
}

#[test]
fn entries_that_overlap() {
    let overlaps = Refusal::Malformed("its content overlaps the next entry or the directory");
    // Two names for one content: the quine and "better zip bomb" way.
    let shared = Entry {
        local: Local {
            absent: true,
            ..Local::default()
        },
        offset: Some(0),
        ..file("a", b"1")
    };
    assert_eq!(
        Ground::new().refusal(&zip(&[file("a", b"1"), shared])).1,
        overlaps
    );
    // An entry inside another's content.
    let inner = zip(&[stored("inner", b"x")]);
    let outer = stored("outer", &inner[..36]);
    let inside = Entry {
        local: Local {
            absent: true,
            ..Local::default()
        },
        offset: Some(35),
        ..stored("inner", b"x")
    };
    assert_eq!(Ground::new().refusal(&zip(&[outer, inside])).1, overlaps);
    // Content that reaches into the directory.
    let long = Entry {
        packed_size: 60,
        size: 60,
        ..stored("x", b"1")
    };
    assert_eq!(Ground::new().refusal(&zip(&[long])).1, overlaps);
}

#[test]
fn bytes_that_belong_to_nobody() {
    let entries = [file("a", b"1"), file("b", b"2")];
    let with = |around: Around| Ground::new().refusal(&zip_with(&entries, &around)).1;
    let none = Around::default();
    // A script before the archive moves all places; with places made right it is stray.
    let moved = with(Around {
        before: b"PK\x03\x04#!/bin/sh".to_vec(),
        ..none.clone()
    });
    assert_eq!(moved, Refusal::Stray("before its first entry"));
    let before = with(Around {
        before_directory: b"hidden".to_vec(),
        ..none.clone()
    });
    assert_eq!(before, Refusal::Stray("after its content"));
    let after = with(Around {
        after_directory: b"hidden".to_vec(),
        ..none.clone()
    });
    assert_eq!(
        after,
        Refusal::Malformed("its directory is not where its end record says")
    );
    let trailing = with(Around {
        after: b"hidden".to_vec(),
        ..none.clone()
    });
    assert_eq!(
        trailing,
        Refusal::Malformed("it has no end record, or bytes after it")
    );
    let hidden = Entry {
        after: b"hidden".to_vec(),
        ..file("a", b"1")
    };
    assert_eq!(
        Ground::new().refusal(&zip(&[hidden])).1,
        Refusal::Stray("after its content")
    );
    // An entry that only a scan from the front would see.
    let unlisted = zip(&[file("unlisted", b"1")]);
    let end = unlisted.len() - 22 - 46 - 8;
    let with_unlisted = Entry {
        after: unlisted[..end].to_vec(),
        ..file("a", b"1")
    };
    assert_eq!(
        Ground::new().refusal(&zip(&[with_unlisted])).1,
        Refusal::Stray("after its content")
    );
}

#[test]
fn ends_that_lie() {
    let entries = [file("a", b"1"), file("b", b"2")];
    let with = |around: Around| Ground::new().refusal(&zip_with(&entries, &around)).1;
    let none = Around::default();
    let elsewhere = Refusal::Malformed("its directory is not where its end record says");
    assert_eq!(
        with(Around {
            directory_size: Some(1),
            ..none.clone()
        }),
        elsewhere
    );
    assert_eq!(
        with(Around {
            directory_start: Some(0),
            ..none.clone()
        }),
        elsewhere
    );
    assert_eq!(
        with(Around {
            count: Some(1),
            ..none.clone()
        }),
        Refusal::Stray("in its directory")
    );
    let more = Refusal::Malformed("it points outside itself, or breaks off");
    assert_eq!(
        with(Around {
            count: Some(3),
            ..none.clone()
        }),
        more
    );
    // A comment that is an end record itself.
    let inner = zip(&[]);
    let two = with(Around {
        comment: inner,
        ..none
    });
    assert_eq!(two, Refusal::Malformed("it has two end records"));
    // Truncated anywhere.
    let whole = zip(&entries);
    for length in 4..whole.len() {
        assert!(matches!(
            Ground::new().refusal(&whole[..length]).1,
            Refusal::Malformed(_)
        ));
    }
    assert_eq!(Ground::new().refusal(&zip(&[])).1, Refusal::Empty);
    assert_eq!(
        Ground::new().refusal(&zip(&[directory("d/")])).1,
        Refusal::Empty
    );
}

#[test]
fn zip64_that_lies() {
    let entries = [file("a", b"1")];
    let with = |zip64: fn(u64, u64, u64) -> Vec<u8>, around: Around| {
        let around = Around {
            zip64: Some(zip64),
            ..around
        };
        Ground::new().refusal(&zip_with(&entries, &around)).1
    };
    let none = Around::default();
    let disagree = Refusal::Malformed("its two end records disagree");
    assert_eq!(
        with(|n, size, start| end64(n + 1, size, start), none.clone()),
        disagree
    );
    let wrong = Refusal::Malformed("its zip64 end record is not as it should be");
    let longer = |n, size, start| [end64(n, size, start), b"room".to_vec()].concat();
    assert_eq!(with(longer, none.clone()), wrong);
    let elsewhere = Refusal::Malformed("its directory is not where its end record says");
    assert_eq!(
        with(|n, size, _| end64(n, size, 0), none.clone()),
        elsewhere
    );
    let huge = Around {
        count: Some(u16::MAX),
        ..none.clone()
    };
    assert_eq!(
        with(|_, size, start| end64(u64::MAX, size, start), huge),
        Refusal::Entries(200_000)
    );
    let far = Around {
        directory_start: Some(u32::MAX),
        ..none
    };
    assert_eq!(with(|n, size, _| end64(n, size, u64::MAX), far), elsewhere);

    let missing = Entry {
        size: u64::from(u32::MAX),
        ..file("x", b"1")
    };
    refused(missing, &Refusal::Malformed("a zip64 field is missing"));
    let more = Refusal::Malformed("a zip64 field says more than was asked");
    refused(
        Entry {
            extra: extra(1, &[0; 8]),
            ..file("x", b"1")
        },
        &more,
    );
    let short = Entry {
        size: u64::MAX,
        extra: extra(1, &[0; 4]),
        ..file("x", b"1")
    };
    refused(short, &Refusal::Malformed("a header is too short"));
    let two = [
        extra(1, &1_u64.to_le_bytes()),
        extra(1, &2_u64.to_le_bytes()),
    ]
    .concat();
    let two = Entry {
        size: u64::MAX,
        extra: two,
        ..file("x", b"1")
    };
    refused(two, &Refusal::Malformed("it has two zip64 fields"));
    let bomb = extra(1, &(1_u64 << 60).to_le_bytes());
    let (entry, rule) = entry_refused(Entry {
        size: u64::MAX,
        extra: bomb,
        ..file("x", b"1")
    });
    assert_eq!((entry, rule), (None, Refusal::Unpacked(750 << 20)));
    refused(
        Entry {
            extra: vec![1, 2, 3],
            ..file("x", b"1")
        },
        &Refusal::Malformed("a header is too short"),
    );
}

#[test]
fn descriptors_that_lie() {
    let content = b"content content content";
    let streamed = |after: Vec<u8>| Entry {
        flags: 1 << 3,
        local: Local {
            crc: Some(0),
            size: Some(0),
            packed_size: Some(0),
            ..Local::default()
        },
        after,
        ..file("x", content)
    };
    let sound = file("x", content);
    let sizes = |crc: u32| {
        let mut out = crc.to_le_bytes().to_vec();
        out.extend(
            u32::try_from(sound.packed_size)
                .expect("small")
                .to_le_bytes(),
        );
        out.extend(u32::try_from(sound.size).expect("small").to_le_bytes());
        out
    };
    let stray = Refusal::Stray("after its content");
    refused(streamed(Vec::new()), &stray);
    refused(streamed(sizes(1)), &stray);
    refused(
        streamed([b"PK\x07\x09".to_vec(), sizes(sound.crc)].concat()),
        &stray,
    );
    refused(
        streamed([sizes(sound.crc), b"more".to_vec()].concat()),
        &stray,
    );
    // The two sound forms.
    for after in [
        sizes(sound.crc),
        [b"PK\x07\x08".to_vec(), sizes(sound.crc)].concat(),
    ] {
        Ground::new()
            .upload(&zip(&[streamed(after)]))
            .expect("sound");
    }
}

#[test]
fn bombs() {
    let zeros = vec![0; 11 << 20];
    let (entry, rule) = Ground::new().refusal(&zip(&[file("zeros", &zeros)]));
    assert_eq!((entry, rule), (None, Refusal::Ratio(100)));
    // Small ones are no bomb whatever their ratio.
    Ground::new()
        .upload(&zip(&[file("zeros", &zeros[..10 << 20])]))
        .expect("below the floor");

    let small = Bounds {
        unpacked: 1000,
        entries: 5,
        ..Bounds::default()
    };
    let refusal = |entries: &[Entry]| Ground::with(small.clone()).refusal(&zip(entries)).1;
    Ground::with(small.clone())
        .upload(&zip(&[stored("a", &noise(600)), stored("b", &noise(400))]))
        .expect("at the limit");
    let over = [stored("a", &noise(600)), stored("b", &noise(401))];
    assert_eq!(refusal(&over), Refusal::Unpacked(1000));
    let six: Vec<_> = (0..6).map(|n| file(&format!("f{n}"), b"x")).collect();
    Ground::with(small.clone())
        .upload(&zip(&six[..5]))
        .expect("at the limit");
    assert_eq!(refusal(&six), Refusal::Entries(5));
    // Directories that are only implied cost as much as others.
    assert_eq!(refusal(&[file("a/b/c/d/e/f", b"x")]), Refusal::Entries(5));
    Ground::with(small)
        .upload(&zip(&[file("a/b/c/d/f", b"x")]))
        .expect("at the limit");
}
