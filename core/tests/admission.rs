//! Tier 1 (pure): who is admitted, who waits, who gives way and who is refused.
#![allow(missing_docs, reason = "a test")]

use proptest::prelude::*;
use session_core::admission::{
    Decision, Idle, Limit, Policy, Pressure, Readings, Wanted, decide, has_room_for_member,
};
use session_core::moment::Moment;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const NOW: Moment = Moment(1_000_000);

const POLICY: Policy = Policy {
    memory_ratio: 2.0,
    ..Policy::BUILT_IN
};

/// A host with 1 GiB, of which 2 GiB may be promised and 1 GiB is.
fn calm() -> Readings {
    Readings {
        free_places: 5,
        committed: 1024 * MIB,
        host_memory: Some(1024 * MIB),
        available: Some(700 * MIB),
        pressure: Some(Pressure::default()),
        ..Readings::default()
    }
}

fn wanted() -> Wanted {
    Wanted {
        memory: 512 * MIB,
        until: NOW + Duration::from_secs(10),
        behind: 0,
        behind_memory: 0,
    }
}

fn late() -> Wanted {
    Wanted {
        until: NOW,
        ..wanted()
    }
}

fn idle(seconds: u64, frozen: bool) -> Idle {
    Idle {
        since: NOW.before(Duration::from_secs(seconds)),
        frozen,
        committed: if frozen { 20 * MIB } else { 512 * MIB },
    }
}

/// Each of the six, and nothing else, short.
fn shortages() -> [(Limit, Policy, Readings); 6] {
    let of = |memory, cpu, io| Readings {
        pressure: Some(Pressure { memory, cpu, io }),
        ..calm()
    };
    let pressed = Policy {
        most_pressure: Pressure {
            memory: 20,
            cpu: 90,
            io: 50,
        },
        ..POLICY
    };
    let none = Readings {
        free_places: 0,
        ..calm()
    };
    let promised = Readings {
        committed: 1537 * MIB,
        ..calm()
    };
    let full = Readings {
        available: Some(127 * MIB),
        ..calm()
    };
    [
        (Limit::Places, POLICY, none),
        (Limit::Commitment, POLICY, promised),
        (Limit::Available, POLICY, full),
        (Limit::MemoryPressure, pressed, of(20, 89, 49)),
        (Limit::CpuPressure, pressed, of(19, 90, 49)),
        (Limit::IoPressure, pressed, of(19, 89, 50)),
    ]
}

#[test]
fn whatever_is_short_is_waited_for_and_then_named() {
    assert_eq!(
        decide(NOW, &POLICY, &calm(), &late(), &[]),
        Decision::Admit,
        "patience is for those who need it"
    );
    for (limit, policy, readings) in shortages() {
        let waits = decide(NOW, &policy, &readings, &wanted(), &[]);
        assert_eq!(waits, Decision::Wait(limit));
        let refused = decide(NOW, &policy, &readings, &late(), &[]);
        assert!(
            matches!(refused, Decision::Refuse { limit: of, again } if of == limit && !again.is_zero()),
            "{refused:?}"
        );
    }
}

#[test]
fn what_is_not_known_or_not_wanted_keeps_nobody_out() {
    let blind = Readings {
        free_places: 1,
        committed: u64::MAX,
        ..Readings::default()
    };
    assert_eq!(decide(NOW, &POLICY, &blind, &late(), &[]), Decision::Admit);
    let open = Policy {
        most_pressure: Pressure::default(),
        memory_ratio: 0.0,
        memory_reserve: 0,
        evict_after: None,
    };
    for (limit, _, readings) in shortages() {
        let decision = decide(NOW, &open, &readings, &late(), &[]);
        assert_eq!(decision == Decision::Admit, limit != Limit::Places);
    }
}

#[test]
fn a_session_that_can_never_fit_is_refused_at_once() {
    let wanted = Wanted {
        memory: 2049 * MIB,
        ..wanted()
    };
    let decision = decide(NOW, &POLICY, &calm(), &wanted, &[idle(1000, false)]);
    assert!(
        matches!(
            decision,
            Decision::Refuse {
                limit: Limit::Commitment,
                ..
            }
        ),
        "{decision:?}"
    );
}

#[test]
fn idle_sessions_give_way_before_anybody_is_refused() {
    let idle = [
        idle(100, false),
        idle(29, true),
        idle(50, true),
        idle(60, true),
        idle(200, false),
    ];
    for (limit, policy, readings) in shortages() {
        let decision = decide(NOW, &policy, &readings, &late(), &idle);
        match limit {
            Limit::Places | Limit::Available | Limit::MemoryPressure => {
                assert_eq!(
                    decision,
                    Decision::Evict(vec![3], limit),
                    "the frozen one that is idle for longest"
                );
            }
            Limit::Commitment => {
                assert_eq!(
                    decision,
                    Decision::Evict(vec![3], limit),
                    "1 MiB is lacking, 20 are given"
                );
            }
            Limit::CpuPressure | Limit::IoPressure => {
                assert!(matches!(decision, Decision::Refuse { .. }), "{decision:?}");
            }
        }
    }
    let never = Policy {
        evict_after: None,
        ..POLICY
    };
    let (limit, _, none) = shortages()[0];
    let decision = decide(NOW, &never, &none, &wanted(), &idle);
    assert_eq!(decision, Decision::Wait(limit));
}

#[test]
fn those_that_are_ending_already_are_counted() {
    let idle = [idle(100, false), idle(50, false), idle(40, false)];
    let (limit, _, none) = shortages()[0];
    let crowd = Wanted {
        behind: 1,
        ..wanted()
    };
    assert_eq!(
        decide(NOW, &POLICY, &none, &crowd, &idle),
        Decision::Evict(vec![0, 1], limit)
    );
    let leaving = |leaving| Readings { leaving, ..none };
    assert_eq!(
        decide(NOW, &POLICY, &leaving(1), &crowd, &idle),
        Decision::Evict(vec![0], limit)
    );
    assert_eq!(
        decide(NOW, &POLICY, &leaving(2), &crowd, &idle),
        Decision::Wait(limit)
    );
    let (limit, policy, pressed) = shortages()[3];
    let leaving = Readings {
        leaving: 1,
        ..pressed
    };
    assert_eq!(
        decide(NOW, &policy, &leaving, &wanted(), &idle),
        Decision::Wait(limit),
        "one at a time"
    );
}

#[test]
fn members_of_pools_give_way_before_any_session_does() {
    let idle = [idle(100, true)];
    for (limit, policy, readings) in shortages() {
        let members = Readings {
            members: 3,
            ..readings
        };
        let never = Policy {
            evict_after: None,
            ..policy
        };
        let decision = decide(NOW, &never, &members, &late(), &idle);
        match limit {
            Limit::Commitment => assert_eq!(decision, Decision::GiveWay(MIB, limit), "as needed"),
            Limit::Available | Limit::MemoryPressure => {
                assert_eq!(decision, Decision::GiveWay(u64::MAX, limit));
            }
            Limit::Places | Limit::CpuPressure | Limit::IoPressure => {
                assert!(matches!(decision, Decision::Refuse { .. }), "{decision:?}");
            }
        }
        // While they end, no session does for the same want.
        let leaving = Readings {
            members_leaving: 3,
            leaving_bytes: 30 * MIB,
            ..readings
        };
        let decision = decide(NOW, &policy, &leaving, &wanted(), &idle);
        let waits = matches!(
            limit,
            Limit::Commitment | Limit::Available | Limit::MemoryPressure
        );
        assert_eq!(waits && decision == Decision::Wait(limit), waits);
        let begins = has_room_for_member(&policy, &readings, 512 * MIB);
        assert_eq!(begins, limit == Limit::Places, "{limit:?}");
    }
    assert!(has_room_for_member(&POLICY, &calm(), 1024 * MIB));
    assert!(!has_room_for_member(&POLICY, &calm(), 1025 * MIB));
}

prop_compose! {
    fn any_readings()(
        members in 0_u32..3,
        members_leaving in 0_u32..3,
        free_places in 0_u32..4,
        committed in 0_u64..4096,
        leaving in 0_u32..4,
        leaving_bytes in 0_u64..1024,
        host_memory in prop::option::of(256_u64..4096),
        available in prop::option::of(0_u64..1024),
        pressure in prop::option::of((0_u32..100, 0_u32..100, 0_u32..100)),
    ) -> Readings {
        Readings {
            free_places,
            committed: committed * MIB,
            members,
            members_leaving,
            leaving,
            leaving_bytes: leaving_bytes.min(committed) * MIB,
            host_memory: host_memory.map(|mib| mib * MIB),
            available: available.map(|mib| mib * MIB),
            pressure: pressure.map(|(memory, cpu, io)| Pressure { memory, cpu, io }),
        }
    }
}

prop_compose! {
    fn any_policy()(
        memory in 0_u32..100, cpu in 0_u32..100, io in 0_u32..100,
        memory_ratio in prop_oneof![Just(0.0), 0.1..20.0],
        reserve in 0_u64..512,
        evict_after in prop::option::of(0_u64..100),
    ) -> Policy {
        Policy {
            most_pressure: Pressure { memory, cpu, io },
            memory_ratio,
            memory_reserve: reserve * MIB,
            evict_after: evict_after.map(Duration::from_secs),
        }
    }
}

prop_compose! {
    fn any_wanted()(memory in 1_u64..2048, until in 0_u64..2_000_000, behind in 0_u32..20, behind_memory in 0_u64..8192) -> Wanted {
        Wanted {
            memory: memory * MIB,
            until: Moment(until),
            behind,
            behind_memory: if behind == 0 { 0 } else { behind_memory * MIB },
        }
    }
}

fn any_idle() -> impl Strategy<Value = Vec<Idle>> {
    let one = (0_u64..200, any::<bool>(), 1_u64..512).prop_map(|(seconds, frozen, mib)| Idle {
        since: NOW.before(Duration::from_secs(seconds)),
        frozen,
        committed: mib * MIB,
    });
    prop::collection::vec(one, 0..30)
}

proptest! {
    #[test]
    fn the_rules_hold(
        policy in any_policy(), readings in any_readings(), wanted in any_wanted(), idle in any_idle(),
    ) {
        let decision = decide(NOW, &policy, &readings, &wanted, &idle);
        // Fewer resources never let anybody in, and neither who waits nor who is idle changes whether one is let in.
        let admitted = decision == Decision::Admit;
        let worse = Readings { free_places: readings.free_places.saturating_sub(1), committed: readings.committed + MIB, ..readings };
        if !admitted {
            prop_assert_ne!(decide(NOW, &policy, &worse, &wanted, &idle), Decision::Admit);
        }
        let alone = Wanted { behind: 0, behind_memory: 0, until: NOW, ..wanted };
        prop_assert_eq!(decide(NOW, &policy, &readings, &alone, &[]) == Decision::Admit, admitted);
        match &decision {
            Decision::Admit => prop_assert!(readings.free_places > 0),
            Decision::Wait(_) => prop_assert!(NOW < wanted.until),
            Decision::Refuse { .. } => {}
            Decision::GiveWay(bytes, limit) => {
                prop_assert!(*bytes > 0 && readings.members > 0);
                prop_assert!(limit.eviction_helps() && *limit != Limit::Places);
            }
            Decision::Evict(who, limit) => {
                prop_assert!(limit.eviction_helps() && !who.is_empty());
                prop_assert!(readings.members == 0 || *limit == Limit::Places, "a session went before a member");
                let after = policy.evict_after.expect("allowed");
                let rank = |one: &Idle| (!one.frozen, one.since);
                let last = who.iter().map(|at| rank(&idle[*at])).max().expect("one");
                for (at, one) in idle.iter().enumerate() {
                    let due = one.since + after <= NOW;
                    prop_assert!(due || !who.contains(&at), "{one:?} is not idle for long enough");
                    // Nobody is passed over for the sake of one who should go later.
                    prop_assert!(!due || who.contains(&at) || rank(one) >= last);
                }
                let callers = u64::from(wanted.behind) + 1;
                match limit {
                    Limit::Places => prop_assert!(who.len() as u64 + u64::from(readings.leaving) <= callers),
                    Limit::Commitment => {
                        let most = readings.host_memory.expect("known") as f64 * policy.memory_ratio;
                        let given: u64 = who[..who.len() - 1].iter().map(|at| idle[*at].committed).sum();
                        let left = (readings.committed - readings.leaving_bytes).saturating_sub(given);
                        prop_assert!((left + wanted.memory + wanted.behind_memory) as f64 > most, "one too many");
                    }
                    _ => prop_assert_eq!(who.len(), 1),
                }
            }
        }
    }

    /// As long as sessions that give way do go, whoever could fit gets in without a refusal.
    #[test]
    fn a_crowd_gets_in_as_far_as_idle_sessions_make_room(
        places in 1_u32..20, sleeping in 0_u32..20, callers in 1_u32..20,
    ) {
        let sleeping = sleeping.min(places);
        let mut idle: Vec<Idle> = (0..sleeping).map(|n| self::idle(40 + u64::from(n), n % 2 == 0)).collect();
        let (mut live, mut let_in, mut ended) = (sleeping, 0_u32, 0_u32);
        let mut leaving = 0_u32;
        for behind in (0..callers).rev() {
            for _ in 0..=2 * places {
                let readings = Readings { free_places: places - live, leaving, ..Readings::default() };
                let wanted = Wanted { behind, ..wanted() };
                match decide(NOW, &POLICY, &readings, &wanted, &idle) {
                    Decision::Admit => { live += 1; let_in += 1; break; }
                    Decision::Evict(mut who, _) => {
                        who.sort_unstable();
                        for at in who.into_iter().rev() { idle.remove(at); leaving += 1; ended += 1; }
                    }
                    Decision::Wait(_) if leaving > 0 => { leaving -= 1; live -= 1; }
                    Decision::Wait(_) | Decision::Refuse { .. } | Decision::GiveWay(..) => break,
                }
            }
        }
        prop_assert_eq!(let_in, callers.min(places));
        let needed = callers.saturating_sub(places - sleeping);
        prop_assert_eq!(ended, needed.min(sleeping), "more ended than were needed");
    }
}
