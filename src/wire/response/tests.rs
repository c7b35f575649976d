use super::*;

/// What `put` appends, as hexadecimal digits.
fn hex(put: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut bytes = Vec::new();
    put(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Apache 3.9.5's answers, as the golden probe recorded them.
mod golden {
    use super::*;

    /// The stat of `/probe/a`, but for what the record cut off.
    const STAT: Stat = Stat {
        czxid: Zxid::from_raw(0x1075c),
        mzxid: Zxid::from_raw(0x1075c),
        ctime_ms: 0x01a2_02b9_1317,
        mtime_ms: 0x01a2_02b9_1317,
        version: 0,
        cversion: 0,
        aversion: 0,
        ephemeral_owner: 0,
        data_length: 1,
        num_children: 0,
        pzxid: Zxid::from_raw(0x1075c),
    };

    #[test]
    fn a_refused_session_gets_37_bytes() {
        assert_eq!(
            hex(|out| ConnectResponse::refused(Some(false)).encode(out)),
            concat!(
                "00000025",
                "00000000000000000000000000000000000000100000000000000000000000000000000000"
            )
        );
        assert_eq!(hex(|out| ConnectResponse::refused(None).encode(out)).len(), 2 * (4 + 36));
    }

    #[test]
    fn create_and_sync_answer_with_the_path() {
        assert_eq!(hex(|out| put_path(out, "/probe")), "000000062f70726f6265");
    }

    #[test]
    fn create2_answers_with_path_and_stat() {
        let body = hex(|out| put_path_and_stat(out, "/probe/a", &STAT));
        let golden = "000000082f70726f62652f61000000000001075c000000000001075c\
                      000001a202b91317000001a202b9131700000000000000000000000000000000";
        assert!(body.starts_with(golden), "{body}");
        assert_eq!(body.len(), 2 * (12 + Stat::SIZE));
    }

    #[test]
    fn get_data_tells_null_from_empty() {
        let stat = Stat { ephemeral_owner: 0x0100_0007_a82d_0bd0, ..STAT };
        let body = hex(|out| put_data(out, None, &stat));
        assert!(body.starts_with("ffffffff000000000001075c"), "{body}");
        assert!(hex(|out| put_data(out, Some(b""), &stat)).starts_with("00000000"));
    }

    #[test]
    fn an_event_comes_as_one_frame() {
        assert_eq!(
            hex(|out| put_event(out, EventKind::NodeCreated, Zxid::from_raw(0x1075d), "/probe/w")),
            concat!(
                "00000024",
                "ffffffff000000000001075d00000000",
                "0000000100000003000000082f70726f62652f77"
            )
        );
    }

    #[test]
    fn multis_that_are_empty_or_fail() {
        assert_eq!(hex(put_multi_end), "ffffffff01ffffffff");
        let failed = hex(|out| {
            for error in [ErrorCode::Ok, ErrorCode::BadVersion, ErrorCode::RuntimeInconsistency] {
                put_op_result(out, &OpResult::Error(error.raw()));
            }
            put_multi_end(out);
        });
        assert_eq!(
            failed,
            "ffffffff000000000000000000ffffffff00ffffff99ffffff99\
             ffffffff00fffffffefffffffeffffffff01ffffffff"
        );
    }

    #[test]
    fn a_multi_of_create2_check_and_set() {
        let body = hex(|out| {
            put_op_result(out, &OpResult::CreatedWithStat { path: "/probe/m", stat: &STAT });
            put_op_result(out, &OpResult::Checked);
            put_op_result(out, &OpResult::DataSet { stat: &STAT });
            put_multi_end(out);
        });
        let golden = "0000000f0000000000000000082f70726f62652f6d";
        assert!(body.starts_with(golden), "{body}");
        assert_eq!(body.len(), 2 * (9 + 12 + Stat::SIZE + 9 + 9 + Stat::SIZE + 9));
        assert!(body[2 * (9 + 12 + Stat::SIZE)..].starts_with("0000000d0000000000"));
        assert!(body[2 * (18 + 12 + Stat::SIZE)..].starts_with("000000050000000000"));
    }

    #[test]
    fn a_multi_read_goes_on_after_an_error() {
        let body = hex(|out| {
            put_op_result(out, &OpResult::Error(ErrorCode::NoNode.raw()));
            put_children_result(out, [""; 0]);
            put_multi_end(out);
        });
        assert_eq!(body, "ffffffff00ffffff9bffffff9b00000008000000000000000000ffffffff01ffffffff");
    }

    #[test]
    fn small_bodies() {
        assert_eq!(hex(put_watch_added), "00000000");
        assert_eq!(hex(|out| put_count(out, 8)), "00000008");
        assert_eq!(
            hex(|out| {
                let identities = [("ip", "127.0.0.1"), ("digest", "u")];
                put_identities(out, identities.into_iter());
            }),
            "00000002000000026970000000093132372e302e302e31000000066469676573740000000175"
        );
        assert_eq!(
            hex(|out| {
                assert_eq!(put_strings(out, ["/probe/w"]), 1);
            }),
            "00000001000000082f70726f62652f77"
        );
    }
}

#[test]
fn frames_know_their_length_wherever_they_begin() {
    let mut out = vec![9, 9, 9];
    put_error(&mut out, 7, Zxid::from_raw(2), ErrorCode::NoNode);
    put_reply(&mut out, 8, Zxid::from_raw(3), |out| put_count(out, 5));
    let digits: String = out.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        digits,
        concat!(
            "090909",
            "00000010000000070000000000000002ffffff9b",
            "0000001400000008000000000000000300000000",
            "00000005"
        )
    );
}

#[test]
fn an_unknown_operation_is_answered_with_the_zxid_minus_one() {
    assert_eq!(
        hex(|out| put_error(out, 1, Zxid::from_raw(-1), ErrorCode::Unimplemented)),
        "0000001000000001fffffffffffffffffffffffa"
    );
}

#[test]
fn lists_count_what_they_hold() {
    assert_eq!(
        hex(|out| {
            put_children_and_stat(out, ["a", "bc"].iter(), &Stat::default());
        }),
        format!("00000002{}{}{}", "0000000161", "000000026263", "0".repeat(2 * Stat::SIZE))
    );
    let acl = hex(|out| put_acl(out, &EncodedAcl::OPEN, &Stat::default()));
    assert!(acl.starts_with("000000010000001f00000005776f726c6400000006616e796f6e65"));
    assert_eq!(hex(|out| put_sasl_token(out, None)), "ffffffff");
}
