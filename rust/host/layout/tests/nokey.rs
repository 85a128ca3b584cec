// SPDX-License-Identifier: GPL-2.0

//! What stands for encrypted names, and the digest in it.

mod common;

use std::process::{Command, Stdio};

use common::noise;
use layout_host::layout::nokey::NOKEY_MAX;
use layout_host::layout::sha256::sha256;
use layout_host::layout::*;

/// What a tool of coreutils says of some bytes.
fn told(tool: &[&str], data: &[u8]) -> String {
    use std::io::Write;
    let mut child = Command::new(tool[0])
        .args(&tool[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("coreutils");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(data).expect("written");
    drop(input);
    let out = child.wait_with_output().expect("it ends");
    String::from_utf8(out.stdout).expect("text")
}

#[test]
fn digests_are_those_of_sha256sum() {
    for len in [0, 1, 3, 55, 56, 63, 64, 65, 106, 119, 120, 1000] {
        let data = noise(len as u64 + 1, len);
        let hex: String = sha256(&data).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(told(&["sha256sum"], &data)[..64], hex, "{len} bytes");
    }
}

#[test]
fn names_are_shown_in_base64_and_found_again() {
    let hash = NameHash {
        major: 0x1234_5678,
        minor: 0x9abc_def0,
    };
    for len in [16, 17, 18, 32, 148, 149, 150, 176, 255] {
        let name = noise(len as u64, len);
        let shown = NokeyName::new(&name, hash).expect("a name").show();
        let mut bytes = b"\x78\x56\x34\x12\xf0\xde\xbc\x9a".to_vec();
        bytes.extend(&name[..len.min(149)]);
        if len > 149 {
            bytes.extend(sha256(&name[149..]));
        }
        let wanted = told(&["basenc", "--base64url", "-w0"], &bytes);
        assert_eq!(shown.bytes(), wanted.trim_end_matches('=').as_bytes());
        assert!(shown.bytes().len() <= NOKEY_MAX && NOKEY_MAX <= 255);
        let parsed = NokeyName::parse(shown.bytes()).expect("it can be read");
        assert_eq!(parsed.hash(), hash);
        assert!(parsed.is_of(&name));
        let mut other = name.clone();
        other[len - 1] ^= 1;
        assert!(!parsed.is_of(&other), "the last byte counts");
    }
}

#[test]
fn what_is_no_such_name_is_refused() {
    assert!(NokeyName::new(&[0; 15], NameHash { major: 0, minor: 0 }).is_err());
    let longest = vec![b'A'; NOKEY_MAX + 1];
    for text in [
        &b""[..],
        b"A",
        b"plain name",
        b"AAAAAAAAAAA",
        b"AAAAAAAAAAAAAAAAAAAA=",
        b"AAAAAAAAAAAAAAAAAAAAA",
        b"AAAAAAAAAAAAAAAAAAAAAB",
        &longest,
        &longest[..220],
    ] {
        assert_eq!(NokeyName::parse(text), None, "{text:?}");
    }
    assert!(NokeyName::parse(b"AAAAAAAAAAAAAAAAAAAAAA").is_some());
    let link = |len: u16, bytes: usize| {
        let mut data = len.to_le_bytes().to_vec();
        data.resize(2 + bytes, 7);
        NokeyName::of_link(&data)
    };
    assert!(link(16, 16).is_ok() && link(32, 58).is_ok());
    assert!(link(0, 16).is_err() && link(17, 16).is_err() && link(65535, 16).is_err());
    assert!(NokeyName::of_link(&[16]).is_err());
}
