//! tar.gz files that must be refused, each for its own reason.

use super::make_tar::{
    Block, blocks, directory, entry, file, hard_link, pax, record, symlink, tar_gz,
};
use super::*;

#[track_caller]
fn refused(entries: &[Block], rule: &Refusal) -> Option<String> {
    let first = file("first.py", b"1");
    let all: Vec<Block> = std::iter::once(first)
        .chain(entries.iter().cloned())
        .collect();
    let (named, found) = Ground::new().refusal(&tar_gz(&all));
    assert_eq!(&found, rule);
    named
}

#[test]
fn names_that_are_not_plain_and_inside() {
    for (name, why) in [
        ("../evil", "has a part `..`"),
        ("a/../../evil", "has a part `..`"),
        ("/etc/evil", "is absolute"),
        ("a//b", "has an empty part"),
        ("a/./b", "has a part `.`"),
        ("..\\evil", "has a backslash"),
        ("a\nb", "has a control character"),
        ("\u{1b}[2J", "has a control character"),
    ] {
        let named = refused(&[file(name, b"x")], &Refusal::Path(why));
        assert_eq!(
            named,
            Some(format!(
                "\"{}\"",
                name.escape_debug().to_string().replace("\\u{1b}", "\\x1b")
            ))
        );
    }
    refused(&[entry("", b'0', b"x")], &Refusal::Path("is empty"));
    refused(
        &[file("x", b"").with(0, b"\xff\xfe")],
        &Refusal::Path("is not UTF-8"),
    );
    refused(
        &[file("d/", b"x")],
        &Refusal::Path("is that of a directory"),
    );
    refused(
        &[file("./", b"x")],
        &Refusal::Path("is that of a directory"),
    );
    // The ustar prefix is a part of the name.
    refused(
        &[file("evil", b"x").with(345, b"..")],
        &Refusal::Path("has a part `..`"),
    );
    // So are longer forms.
    let long = entry("././@LongLink", b'L', b"../evil\0").with(257, b"ustar  \0");
    refused(
        &[long, file("good", b"x")],
        &Refusal::Path("has a part `..`"),
    );
    refused(
        &[pax(b'x', &[("path", "/etc/evil")]), file("good", b"x")],
        &Refusal::Path("is absolute"),
    );
    refused(
        &[pax(b'x', &[("path", "a\0b")]), file("good", b"x")],
        &Refusal::Path("has a control character"),
    );
    refused(
        &[pax(b'x', &[("path", "")]), file("good", b"x")],
        &Refusal::Path("is empty"),
    );
    let deep = vec!["d"; 65].join("/");
    refused(
        &[pax(b'x', &[("path", &deep)]), file("x", b"x")],
        &Refusal::Path("has more than 64 parts"),
    );
    let long = "abcdefg/".repeat(129);
    refused(
        &[pax(b'x', &[("path", &long)]), file("x", b"x")],
        &Refusal::Path("has more than 1024 bytes"),
    );
    let wide = "x".repeat(256);
    refused(
        &[pax(b'x', &[("path", &wide)]), file("x", b"x")],
        &Refusal::Path("has a part of more than 255 bytes"),
    );
}

#[test]
fn links_that_lead_out() {
    for (target, why) in [
        ("..", "leads out of the bundle"),
        ("../canary", "leads out of the bundle"),
        ("d/../../x", "leads out of the bundle"),
        ("/etc/passwd", "is absolute"),
        ("", "is empty"),
    ] {
        refused(&[symlink("l", target)], &Refusal::Target(why));
    }
    refused(
        &[pax(b'x', &[("linkpath", "../evil")]), symlink("l", "good")],
        &Refusal::Target("leads out of the bundle"),
    );
    let long = entry("././@LongLink", b'K', b"../evil\0").with(257, b"ustar  \0");
    refused(
        &[long, symlink("l", "good")],
        &Refusal::Target("leads out of the bundle"),
    );
    let up = [
        directory("a"),
        directory("a/b"),
        symlink("a/b/up", "../.."),
        symlink("out", "a/b/up/.."),
    ];
    refused(
        &up,
        &Refusal::Target("leads out of the bundle by way of other links"),
    );
}

#[test]
fn hard_links_to_what_is_not_an_earlier_file() {
    for target in [
        "missing",
        "../../../canary",
        "/etc/passwd",
        "d",
        "l",
        "",
        "d/../first.py",
        "self",
    ] {
        let entries = [
            directory("d"),
            symlink("l", "first.py"),
            hard_link("self", target),
        ];
        refused(&entries, &Refusal::HardLink);
    }
    // Through a link to a directory.
    refused(
        &[
            directory("d"),
            file("d/f", b"1"),
            symlink("l", "d"),
            hard_link("h", "l/f"),
        ],
        &Refusal::HardLink,
    );
    refused(&[hard_link("first.py", "first.py")], &Refusal::Duplicate);
    let later = [hard_link("h", "later"), file("later", b"1")];
    refused(&later, &Refusal::HardLink);
}

#[test]
fn writing_through_links_and_over_files() {
    // RUSTSEC-2021-0080, CVE-2018-20990 and their kin.
    refused(
        &[symlink("l", "."), file("l/x", b"1")],
        &Refusal::ThroughLink,
    );
    refused(
        &[directory("d"), symlink("d/l", ".."), directory("d/l/e")],
        &Refusal::ThroughLink,
    );
    refused(
        &[symlink("l", "first.py"), file("l", b"overwritten")],
        &Refusal::Duplicate,
    );
    // Writing to a hard link's other name.
    refused(
        &[hard_link("h", "first.py"), file("h", b"overwritten")],
        &Refusal::Duplicate,
    );
    refused(&[file("first.py", b"again")], &Refusal::Duplicate);
    refused(&[file("first.py/x", b"1")], &Refusal::ThroughLink);
    // RUSTSEC-2026-0067: a mode that lands on the link's target.
    refused(
        &[symlink("l", "first.py"), directory("l")],
        &Refusal::ThroughLink,
    );
}

#[test]
fn kinds_that_are_not_taken() {
    for (kind, what) in [
        (b'3', "character device"),
        (b'4', "block device"),
        (b'6', "FIFO"),
        (b'M', "special entry of a kind that is not known"),
        (b'V', "special entry of a kind that is not known"),
        (b'D', "special entry of a kind that is not known"),
        (b'A', "special entry of a kind that is not known"),
    ] {
        let named = refused(&[entry("x", kind, b"")], &Refusal::Kind(what));
        assert_eq!(named.as_deref(), Some("\"x\""));
    }
    refused(&[file("x", b"1").number(100, 8, 0o4755)], &Refusal::SetId);
    refused(&[file("x", b"1").number(100, 8, 0o2755)], &Refusal::SetId);
    let sparse = entry("x", b'S', b"").with(257, b"ustar  \0");
    refused(std::slice::from_ref(&sparse), &Refusal::Kind("sparse file"));
    refused(
        &[sparse.with(386, b"00000000001")],
        &Refusal::Unsupported("sparse files"),
    );
    for key in ["GNU.sparse.major", "GNU.sparse.name", "SCHILY.realsize"] {
        refused(
            &[pax(b'x', &[(key, "1")]), file("x", b"1")],
            &Refusal::Unsupported("sparse files"),
        );
    }
    refused(
        &[pax(b'g', &[("path", "everywhere")])],
        &Refusal::Unsupported("a global PAX header"),
    );
    refused(
        &[pax(b'x', &[("hdrcharset", "BINARY")]), file("x", b"1")],
        &Refusal::Unsupported("another character set"),
    );
}

/// CVE-2025-62518 and CVE-2026-33055: whoever goes by the other size reads other entries.
#[test]
fn sizes_that_disagree() {
    let smuggled = blocks(&[file("smuggled", b"x")]);
    let disagree = Refusal::Malformed("two headers give different sizes");
    let outer = file("outer", &smuggled);
    refused(&[pax(b'x', &[("size", "0")]), outer.clone()], &disagree);
    refused(
        &[pax(b'x', &[("size", "1024")]), file("outer", b"").size(0)],
        &disagree,
    );
    let malformed = Refusal::Malformed("a PAX header is not well-formed");
    for size in [
        "-1",
        "+1024",
        "0x400",
        "1024 ",
        "",
        "99999999999999999999999",
    ] {
        refused(&[pax(b'x', &[("size", size)]), outer.clone()], &malformed);
    }
    let content = Refusal::Malformed("a directory or link claims to have content");
    refused(&[directory("d").size(512)], &content);
    refused(&[symlink("l", "x").size(512)], &content);
    refused(&[hard_link("h", "first.py").size(512)], &content);
    refused(
        &[file("f", b"").size(u64::pow(8, 11) - 1)],
        &Refusal::Content("breaks off"),
    );
    refused(
        &[file("f", b"").with(124, b"not a number")],
        &Refusal::Malformed("a header is damaged, or it breaks off"),
    );
}

#[test]
fn entries_described_twice_or_badly() {
    let twice = Refusal::Malformed("an entry is described twice");
    let named = pax(b'x', &[("path", "one")]);
    let long = entry("././@LongLink", b'L', b"two\0").with(257, b"ustar  \0");
    let target = entry("././@LongLink", b'K', b"two\0").with(257, b"ustar  \0");
    refused(&[named.clone(), named.clone(), file("x", b"")], &twice);
    refused(&[long.clone(), long.clone(), file("x", b"")], &twice);
    refused(&[target.clone(), target, symlink("x", "y")], &twice);
    refused(&[named.clone(), long.clone(), file("x", b"")], &twice);
    refused(
        &[pax(b'x', &[("path", "a"), ("path", "b")]), file("x", b"")],
        &twice,
    );
    refused(
        &[pax(b'x', &[("size", "0"), ("size", "0")]), file("x", b"")],
        &twice,
    );
    let alone = Refusal::Malformed("its last header describes an entry that does not follow");
    refused(&[long], &alone);
    refused(&[named], &alone);
    let malformed = Refusal::Malformed("a PAX header is not well-formed");
    for content in [
        &b"nonsense"[..],
        b"999 path=x\n",
        b"3 path=x\n",
        b"9 path=xy",
        b"8 path=x\n",
        b"6 path\n",
        b"5 =x\n",
        b"-9 path=x\n",
        b" path=x\n",
        b"0 path=x\n",
        b"1 path=x\n",
        b"2 path=x\n",
    ] {
        refused(&[entry("pax", b'x', content), file("x", b"")], &malformed);
    }
    // A newline in a value is a part of it, not the beginning of a record.
    let hidden = record("comment", "x\n19 path=../../evil");
    Ground::new()
        .upload(&tar_gz(&[entry("pax", b'x', &hidden), file("x", b"")]))
        .expect("one record");
    let long = Refusal::Malformed("a header is longer than 65536 bytes");
    refused(
        &[entry("x", b'L', &vec![b'a'; 65_537]), file("x", b"")],
        &long,
    );
    let more = entry("././@LongLink", b'L', b"a\0/../evil\0").with(257, b"ustar  \0");
    refused(
        &[more, file("x", b"")],
        &Refusal::Malformed("a long name has more after its end"),
    );
}

#[test]
fn fields_that_readers_see_differently() {
    let unused = Refusal::Malformed("a header has data in unused fields");
    // Python joins this prefix, GNU tar does not.
    let gnu = file("x", b"1").with(257, b"ustar  \0");
    refused(&[gnu.clone().with(345, b"../..")], &unused);
    Ground::new().upload(&tar_gz(&[gnu])).expect("plain GNU");
    let old = file("x", b"1").with(257, &[0; 8]);
    refused(&[old.clone().with(345, b"prefix")], &unused);
    refused(&[old.clone().with(257, b"ustar")], &unused);
    Ground::new().upload(&tar_gz(&[old])).expect("plain old");
    refused(&[file("x", b"1").with(500, b"more")], &unused);
}

#[test]
fn streams_that_are_damaged_or_not_alone() {
    let ground = Ground::new();
    let sound = tar_gz(&[file("x", &noise(300))]);
    let mut crc = sound.clone();
    let at = crc.len() - 8;
    crc[at] ^= 1;
    assert!(matches!(ground.refusal(&crc).1, Refusal::Content(_)));
    let mut length = sound.clone();
    let at = length.len() - 4;
    length[at] ^= 1;
    assert!(matches!(ground.refusal(&length).1, Refusal::Content(_)));
    let after = Refusal::Stray("after its compressed part");
    assert_eq!(ground.refusal(&[&sound[..], b"x"].concat()).1, after);
    assert_eq!(ground.refusal(&[&sound[..], &sound[..]].concat()).1, after);
    assert_eq!(ground.refusal(&[&sound[..], &[0; 512]].concat()).1, after);
    // Every cut.
    for length in 2..sound.len() {
        let rule = ground.refusal(&sound[..length]).1;
        assert!(
            matches!(rule, Refusal::Content(_) | Refusal::Malformed(_)),
            "{length}: {rule:?}"
        );
    }
    let no_end = gzip(&blocks(&[file("x", b"1")]));
    assert_eq!(
        ground.refusal(&no_end).1,
        Refusal::Malformed("it breaks off before its end mark")
    );
    let mut short_end = blocks(&[file("x", b"1")]);
    short_end.resize(short_end.len() + 512, 0);
    assert_eq!(
        ground.refusal(&gzip(&short_end)).1,
        Refusal::Malformed("it breaks off before its end mark")
    );
    let mut hidden = blocks(&[file("x", b"1")]);
    hidden.resize(hidden.len() + 1024, 0);
    hidden.extend(blocks(&[file("hidden", b"1")]));
    hidden.resize(hidden.len() + 1024, 0);
    assert_eq!(
        ground.refusal(&gzip(&hidden)).1,
        Refusal::Stray("after its end")
    );
    let mut sum = blocks(&[file("x", b"1")]);
    sum[0] ^= 1;
    sum.resize(sum.len() + 1024, 0);
    assert_eq!(
        ground.refusal(&gzip(&sum)).1,
        Refusal::Malformed("a header is damaged, or it breaks off")
    );
    assert_eq!(
        ground.refusal(&gzip(&[])).1,
        Refusal::Malformed("it breaks off before its end mark")
    );
    assert_eq!(ground.refusal(&tar_gz(&[])).1, Refusal::Empty);
    assert_eq!(ground.refusal(&tar_gz(&[directory("d")])).1, Refusal::Empty);
    for other in [
        &b""[..],
        b"P",
        b"PK",
        b"BZh91AY",
        b"\xfd7zXZ\0",
        b"\x28\xb5\x2f\xfd",
        b"#!/bin/sh",
        &[0; 1024],
    ] {
        assert_eq!(ground.refusal(other).1, Refusal::Format);
    }
    // A tar that is not compressed.
    assert_eq!(
        ground.refusal(&blocks(&[file("x", b"1")])).1,
        Refusal::Format
    );
}

#[test]
fn bombs() {
    let zeros = vec![0; 11 << 20];
    assert_eq!(
        Ground::new().refusal(&tar_gz(&[file("zeros", &zeros)])).1,
        Refusal::Ratio(100)
    );
    // An endless stream after the end of the archive.
    let mut padded = blocks(&[file("x", b"1")]);
    padded.resize(11 << 20, 0);
    assert_eq!(Ground::new().refusal(&gzip(&padded)).1, Refusal::Ratio(100));
    Ground::new()
        .upload(&gzip(&padded[..10 << 20]))
        .expect("below the floor");

    let small = Bounds {
        unpacked: 1000,
        entries: 5,
        ..Bounds::default()
    };
    let refusal = |entries: &[Block]| Ground::with(small.clone()).refusal(&tar_gz(entries)).1;
    let at_limit = [file("a", &noise(600)), file("b", &noise(400))];
    Ground::with(small.clone())
        .upload(&tar_gz(&at_limit))
        .expect("at the limit");
    assert_eq!(
        refusal(&[file("a", &noise(600)), file("b", &noise(401))]),
        Refusal::Unpacked(1000)
    );
    // Names of a hard link cost no bytes, but entries.
    let mut links: Vec<_> = (0..5).map(|n| hard_link(&format!("h{n}"), "f")).collect();
    links.insert(0, file("f", b"x"));
    assert_eq!(refusal(&links), Refusal::Entries(5));
    Ground::with(small.clone())
        .upload(&tar_gz(&links[..5]))
        .expect("at the limit");
    // What only describes is no entry, but cannot go on for ever either.
    let comment = pax(b'g', &[("comment", "x")]);
    let mut described = vec![comment; 17];
    described.push(file("f", b"x"));
    let artifact = Ground::with(small.clone())
        .upload(&tar_gz(&described))
        .expect("at the limit");
    assert_eq!(artifact.entries, 1);
    described.insert(0, described[0].clone());
    assert_eq!(refusal(&described), Refusal::Entries(5));
    // A stream of nothing but headers ends too.
    let headers = Bounds {
        entries: 3,
        unpacked: 1000,
        ..Bounds::default()
    };
    let mut long = blocks(&[file("x", b"1")]);
    long.resize(20_000, 0);
    assert_eq!(
        Ground::with(headers).refusal(&gzip(&long)).1,
        Refusal::Unpacked(1000)
    );
}

#[test]
fn what_takes_too_long() {
    let instant = Bounds {
        time: std::time::Duration::ZERO,
        ..Bounds::default()
    };
    assert_eq!(
        Ground::with(instant).refusal(&tar_gz(&[file("x", b"1")])).1,
        Refusal::Time(0)
    );
}

#[test]
fn a_link_up_is_no_fault_while_others_rename() {
    let busy = tempfile::tempdir().expect("temporary directory");
    let (a, b) = (busy.path().join("a"), busy.path().join("b"));
    fs::write(&a, "").expect("write");
    let over = std::sync::atomic::AtomicBool::new(false);
    let links =
        (0..500).map(|n| symlink(&format!("d/e/l{n}"), "../../d/../d/../d/e/../../first.py"));
    let all: Vec<Block> = std::iter::once(file("first.py", b"1"))
        .chain(links)
        .collect();
    let packed = tar_gz(&all);
    let ground = Ground::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                fs::rename(&a, &b).expect("rename");
                fs::rename(&b, &a).expect("rename");
            }
        });
        let uploaded = ground.upload(&packed).map(drop);
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        uploaded.expect("an upload");
    });
}
