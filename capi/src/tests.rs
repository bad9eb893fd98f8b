//! What C programs cannot show: panics stay inside, texts are complete.

use crate::status::{guarded, Error, Failure, Status, ALL};
use std::ffi::{c_char, CStr};
use wsic_core::payload::{ErrorKind, Limits, Payload};

fn record() -> Error {
    Error { status: Status::Ok, offset: 77, message: [1; 240] }
}

fn message(error: &Error) -> String {
    let end = error.message.iter().position(|&c| c == 0).unwrap();
    String::from_utf8(error.message[..end].iter().map(|&c| c as u8).collect()).unwrap()
}

fn text(pointer: *const c_char) -> String {
    // SAFETY: the library's texts are constants that end in a zero byte.
    unsafe { CStr::from_ptr(pointer) }.to_str().unwrap().into()
}

#[test]
fn a_panic_becomes_a_status() {
    let mut error = record();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    // SAFETY: a local record.
    let status = unsafe { guarded(&mut error, || panic!("on purpose")) };
    std::panic::set_hook(hook);
    assert_eq!(status, Status::Internal);
    assert_eq!((error.status, error.offset), (Status::Internal, 0));
    assert!(message(&error).contains("error in the WSIC library"));
}

#[test]
fn success_leaves_the_record_alone() {
    let mut error = record();
    // SAFETY: a local record.
    assert_eq!(unsafe { guarded(&mut error, || Ok(())) }, Status::Ok);
    assert_eq!((error.offset, error.message[239]), (77, 1));
}

#[test]
fn refusals_of_payloads_name_class_and_offset() {
    let refusal = Payload::open(b"WSIC\x09", &Limits::default()).unwrap_err();
    let mut error = record();
    let wanted = refusal.to_string();
    // SAFETY: a local record.
    let status = unsafe { guarded(&mut error, || Err(refusal.into())) };
    assert_eq!(status, Status::Truncated);
    assert_eq!(message(&error), wanted);
}

#[test]
fn long_messages_are_cut_at_a_character() {
    let what: &'static str = Box::leak("ä".repeat(200).into_boxed_str());
    let mut error = record();
    // SAFETY: a local record.
    unsafe { guarded(&mut error, || Err(Failure::Argument(Status::Overlap, what))) };
    assert_eq!(message(&error), "ä".repeat(119));
}

#[test]
fn every_status_has_texts() {
    let mut names = std::collections::BTreeSet::new();
    for status in ALL {
        assert!(names.insert(text(crate::status::wsic_status_name(status as i32))));
        assert!(text(crate::status::wsic_status_text(status as i32)).len() > 5);
    }
    assert!(ALL.is_sorted_by_key(|&status| status as i32));
    assert_eq!(text(crate::status::wsic_status_name(19)), "unknown");
}

#[test]
fn classes_have_the_names_of_the_specification() {
    for &kind in ErrorKind::ALL {
        let status = Status::of_payload(kind);
        assert_eq!(text(crate::status::wsic_status_name(status as i32)), kind.name());
    }
}
