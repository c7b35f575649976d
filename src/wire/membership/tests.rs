use super::*;

const THREE: &str = "\
server.1=h1:2888:3888:participant;0.0.0.0:2181
server.2=h2:2888:3888:participant;0.0.0.0:2181
server.3=h3:2888:3888:observer;10.0.0.3:2181
version=100000007";

const GROUPS: &str = "\
server.1=h1:2888:3888:participant
server.2=h2:2888:3888:participant
server.3=h3:2888:3888:participant
group.1=1:2
group.2=3
weight.1=1
weight.2=3
weight.3=1
version=0";

fn three() -> Membership {
    Membership::parse(THREE.as_bytes()).unwrap()
}

#[test]
fn texts_are_as_apache_writes_them() {
    for text in [THREE, GROUPS] {
        let membership = Membership::parse(text.as_bytes()).unwrap();
        assert_eq!(membership.text(), text);
        assert_eq!(Membership::version_of(text.as_bytes()), Some(membership.version));
    }
    assert_eq!(three().version, 0x1_0000_0007);
    assert_eq!(three().voter_count(), 2);
    assert_eq!(Membership::default().text(), "version=0");
    assert_eq!(three().lines().len(), 3);
}

#[test]
fn texts_that_make_no_sense_are_refused() {
    let check = |text: &[u8], reason: &str| {
        let error = Membership::parse(text).unwrap_err();
        assert!(error.contains(reason), "{error}");
    };
    check(b"\xff\xfe", "no text");
    check(b"server.1", "has no '='");
    check(b"clientPort=2181", "no key of a member");
    check(b"server.1=h:1", "quorumPort");
    check(b"server.x=h:1:2", "number");
    check(b"version=xyz", "number");
    check(b"server.1=h:1:2\nserver.2=h:3:4\ngroup.1=1", "in no group");
    check(b"server.1=h:1:2\ngroup.1=1\ngroup.2=1", "two groups");
    assert_eq!(Membership::version_of(b"version=zzz"), None);
    assert_eq!(Membership::version_of(b"server.1=h:1:2"), None);
    // Comments and empty lines are those of a file that was written by hand.
    assert!(Membership::parse(b"# one\n\n server.1 = h:1:2 \n").is_ok());
}

#[test]
fn servers_leave_and_join() {
    let next = three()
        .changed(Some("server.4=h4:1:2:participant;3, server.2=h2:2888:3889;2181"), Some("1,3"))
        .unwrap();
    assert_eq!(
        next.text(),
        "server.2=h2:2888:3889:participant;0.0.0.0:2181\n\
         server.4=h4:1:2:participant;0.0.0.0:3\n\
         version=100000007"
    );
    assert_eq!(three().changed(None, Some("7")).unwrap(), three());
    assert_eq!(three().changed(None, None).unwrap(), three());
}

#[test]
fn what_cannot_join_or_leave_is_refused_as_apache_does() {
    let bad = |joining: &str| match three().changed(Some(joining), None) {
        Err(ChangeError::Bad(_)) => {}
        other => panic!("{joining}: {other:?}"),
    };
    bad("nonsense");
    bad("server.4=h4:1:2");
    bad("server.4=h4:1:1;2");
    bad("server.4=h4=1:1;2");
    // A port of another server's.
    bad("server.4=h1:2888:5:participant;6");
    bad("server.4=h4:1:2;h1:3888");
    let unreadable = Err(ChangeError::Unreadable);
    assert_eq!(three().changed(Some("server.x=h4:1:2;3"), None), unreadable);
    assert_eq!(three().changed(None, Some("1,two")), unreadable);
    // Every host has these for itself.
    assert!(three().changed(Some("server.4=127.0.0.1:1:2;3"), None).is_ok());
    let groups = Membership::parse(GROUPS.as_bytes()).unwrap();
    assert!(matches!(groups.changed(None, Some("3")), Err(ChangeError::Bad(_))));
}

#[test]
fn all_members_are_replaced() {
    let is_standalone = true;
    let members = "server.5=h5:1:2,server.6=h6:1:2\nserver.7=h7:1:2:observer";
    let next = three().replaced(members, is_standalone).unwrap();
    assert_eq!((next.servers.len(), next.voter_count()), (3, 2));
    let groups = three().replaced(&GROUPS.replace("\nversion=0", ""), is_standalone).unwrap();
    assert!(groups.is_hierarchical());
    let refused = |members: &str| three().replaced(members, is_standalone).unwrap_err();
    assert!(matches!(refused("what=ever"), ChangeError::Bad(_)));
    assert!(matches!(refused("server.1"), ChangeError::Bad(_)));
    assert_eq!(refused("server.1=h:1:2:observer"), ChangeError::Unreadable);
    assert_eq!(refused("server.1=h:1:2,server.2=h:3:4:observer"), ChangeError::Unreadable);
    assert_eq!(three().replaced("", false), Err(ChangeError::Unreadable));
    // One voter is too few, but that is for the leader to say.
    assert!(three().replaced("server.1=h:1:2", is_standalone).is_ok());
}
