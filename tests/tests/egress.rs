//! What an agent reaches, both ways: allowed targets answer, refused ones are counted, logged and never dialled. The servers
//! are in network namespaces of the test's own, the daemon too ([`e2e::netns`]). Tier: root.

use anyhow::{Context as _, ensure};
use e2e::client::session_name;
use e2e::netns::{
    METADATA, PRIVATE, PRIVATE_TOO, PRIVATE_V6, PUBLIC, PUBLIC_TOO, PUBLIC_V6, World,
};
use e2e::{Client, Daemon, Options, Result, chaos, ground};
use serde_json::{Value, json};

/// A daemon inside a world.
fn with(config: &str, test: impl FnOnce(&World, &mut Daemon) -> Result) -> Result {
    let world = World::new()?;
    let mut options = Options::quick().config(config);
    options.wrap = world.wrap();
    Daemon::with(options, |daemon| test(&world, daemon))
}

fn dial(client: &Client, runtime: &str, session: &str, target: &str) -> anyhow::Result<Value> {
    client.invoke(
        runtime,
        session,
        &json!({"do": "proxy", "target": target, "send": "hello"}),
    )
}

fn reached(answer: &Value, banner: &str) -> Result {
    ensure!(
        answer["status"]
            .as_str()
            .is_some_and(|s| s.contains(" 200"))
            && answer["received"]
                .as_str()
                .is_some_and(|r| r.starts_with(banner)),
        "not reached: {answer}"
    );
    Ok(())
}

fn refused(answer: &Value) -> Result {
    ensure!(
        answer["status"]
            .as_str()
            .is_some_and(|s| s.contains(" 403")),
        "not refused with 403: {answer}"
    );
    Ok(())
}

#[test]
fn the_default_reaches_public_targets_and_nothing_else() -> Result {
    ground!(Daemon, Python, Command("ip"), Command("nsenter"));
    with("", |world, daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "agent", "sdk", json!({}))?;
        let id = session_name("egress");
        let public = world.server(false, &format!("{PUBLIC}:4000"), "public")?;
        let six = world.server(false, &format!("[{PUBLIC_V6}]:4000"), "six")?;
        world.name("model.example.com", &[PUBLIC])?;
        world.name("both.example.com", &[PUBLIC, PUBLIC_V6])?;
        for (target, banner) in [
            (format!("{PUBLIC}:4000"), "public"),
            ("model.example.com:4000".to_owned(), "public"),
            (format!("[{PUBLIC_V6}]:4000"), "six"),
        ] {
            reached(&dial(&client, "agent", &id, &target)?, banner).with_context(|| target)?;
        }
        let met = public.met() + six.met();
        ensure!(met == 3, "{met} connections");

        // All of these are really served: a refusal is the daemon's doing.
        let inner = [
            world.server(false, &format!("{METADATA}:80"), "metadata")?,
            world.server(false, &format!("{PRIVATE}:4000"), "private")?,
            world.server(false, &format!("{PRIVATE_TOO}:4000"), "private")?,
            world.server(false, &format!("[{PRIVATE_V6}]:4000"), "private")?,
            world.server(false, "100.64.0.9:4000", "shared")?,
            world.server(false, "198.18.0.9:4000", "benchmark")?,
            world.server(false, "10.200.0.2:4000", "neighbour")?,
            world.server(true, "127.0.0.1:4000", "loopback")?,
            world.server(true, "[::1]:4000", "loopback")?,
            world.server(true, "10.200.0.1:4000", "own")?,
            world.server(true, "0.0.0.0:4001", "own")?,
        ];
        for (name, address) in [
            ("metadata.example.com", METADATA),
            ("private.example.com", PRIVATE),
            ("loopback.example.com", "127.0.0.1"),
            ("loopback6.example.com", "::1"),
            ("mapped.example.com", "::ffff:127.0.0.1"),
            ("own.example.com", "10.200.0.1"),
        ] {
            world.name(name, &[address])?;
        }
        world.name("mixed.example.com", &[PRIVATE])?;
        let targets = [
            format!("{METADATA}:80"),
            format!("{PRIVATE}:4000"),
            format!("{PRIVATE_TOO}:4000"),
            format!("[{PRIVATE_V6}]:4000"),
            "100.64.0.9:4000".into(),
            "198.18.0.9:4000".into(),
            "10.200.0.2:4000".into(),
            "127.0.0.1:4000".into(),
            "localhost:4000".into(),
            "[::1]:4000".into(),
            "[::ffff:127.0.0.1]:4000".into(),
            "[64:ff9b::7f00:1]:4000".into(),
            "10.200.0.1:4000".into(),
            "0.0.0.0:4001".into(),
            "[::]:4001".into(),
            "127.1:4000".into(),
            "0x7f000001:4000".into(),
            "2130706433:4000".into(),
            "0177.0.0.1:4000".into(),
            "metadata.example.com:80".into(),
            "private.example.com:4000".into(),
            "loopback.example.com:4000".into(),
            "loopback6.example.com:4000".into(),
            "mapped.example.com:4000".into(),
            "own.example.com:4000".into(),
            "mixed.example.com:4000".into(),
        ];
        let before = client.session(&id)?.egress_refused;
        for target in &targets {
            let answer = dial(&client, "agent", &id, target)?;
            let status = answer["status"].as_str().unwrap_or_default();
            ensure!(
                status.contains(" 403") || status.contains(" 400"),
                "{target}: {answer}"
            );
        }
        for server in &inner {
            ensure!(server.met() == 0, "{} was dialled", server.address);
        }
        let counted = client.session(&id)?.egress_refused - before;
        ensure!(
            counted == targets.len() as u64,
            "{counted} of {} refusals counted",
            targets.len()
        );
        let log = daemon.log();
        for word in ["private.example.com", METADATA] {
            ensure!(log.contains(word), "the refusal of {word} is not logged");
        }
        // A name that no one knows is a fault, not a refusal by policy; nobody listening, too.
        for target in [
            "nowhere.example.com:4000".to_owned(),
            format!("{PUBLIC_TOO}:4999"),
        ] {
            let answer = dial(&client, "agent", &id, &target)?;
            let status = answer["status"].as_str().unwrap_or_default();
            ensure!(
                status.contains(" 502") || status.contains(" 504"),
                "{target}: {answer}"
            );
        }
        Ok(())
    })
}

#[test]
fn a_name_that_changes_between_check_and_dial_gains_nothing() -> Result {
    ground!(Daemon, Python, Command("ip"), Command("nsenter"));
    with("", |world, daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "agent", "sdk", json!({}))?;
        let id = session_name("rebind");
        let private = world.server(false, &format!("{PRIVATE}:4000"), "private")?;
        let public = world.server(false, &format!("{PUBLIC}:4000"), "public")?;
        for round in 0..40 {
            // Time to live is 0: every look-up asks again.
            let address = if round % 2 == 0 { PUBLIC } else { PRIVATE };
            world.name("rebind.example.com", &[address])?;
            dial(&client, "agent", &id, "rebind.example.com:4000")?;
        }
        ensure!(
            private.met() == 0,
            "a private address was dialled {} times",
            private.met()
        );
        ensure!(public.met() > 0, "nothing was dialled: no evidence");
        Ok(())
    })
}

#[test]
fn an_allow_list_is_the_whole_world_of_its_runtime() -> Result {
    ground!(Daemon, Python, Command("ip"), Command("nsenter"));
    with("", |world, daemon| {
        let client = daemon.client();
        let allow = json!({"network": {"mode": "outbound", "allow": ["model.example.com:4000", "*.good.example.com:*", format!("{PUBLIC_TOO}:4000")]}});
        chaos::deploy(&client, "listed", "sdk", allow)?;
        let id = session_name("listed");
        let public = world.server(false, &format!("{PUBLIC}:4000"), "public")?;
        let other = world.server(false, &format!("{PUBLIC}:4001"), "other")?;
        let too = world.server(false, &format!("{PUBLIC_TOO}:4000"), "too")?;
        for name in [
            "model.example.com",
            "a.good.example.com",
            "b.a.good.example.com",
            "evil.example.com",
            "notgood.example.com",
            "good.example.com",
        ] {
            world.name(name, &[PUBLIC])?;
        }
        world.name("inner.good.example.com", &[PRIVATE])?;
        let private = world.server(false, &format!("{PRIVATE}:4000"), "private")?;
        for target in [
            "model.example.com:4000",
            "MODEL.example.com:4000",
            "model.example.com.:4000",
            "a.good.example.com:4000",
            "b.a.good.example.com:4000",
        ] {
            reached(&dial(&client, "listed", &id, target)?, "public").with_context(|| target)?;
        }
        reached(
            &dial(&client, "listed", &id, "a.good.example.com:4001")?,
            "other",
        )?;
        reached(
            &dial(&client, "listed", &id, &format!("{PUBLIC_TOO}:4000"))?,
            "too",
        )?;
        let (met, met_other) = (public.met(), other.met());
        for target in [
            "model.example.com:4001".to_owned(),
            "evil.example.com:4000".into(),
            "notgood.example.com:4000".into(),
            "good.example.com:4000".into(),
            format!("{PUBLIC}:4000"),
            "inner.good.example.com:4000".into(),
        ] {
            refused(&dial(&client, "listed", &id, &target)?).with_context(|| target)?;
        }
        ensure!((public.met(), other.met(), private.met(), too.met()) == (met, met_other, 0, 1));
        Ok(())
    })
}

#[test]
fn the_operators_list_opens_exactly_one_private_target() -> Result {
    ground!(Daemon, Python, Command("ip"), Command("nsenter"));
    let config = format!(
        "[network]\nallow_private = [\"{PRIVATE}:4000\", \"models.lan:4000\", \"127.0.0.1:4000\"]"
    );
    with(&config, |world, daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "agent", "sdk", json!({}))?;
        let id = session_name("private");
        let inside = world.server(true, "127.0.0.1:4000", "loopback")?;
        let open = world.server(false, &format!("{PRIVATE}:4000"), "private")?;
        let lan = world.server(false, &format!("{PRIVATE_TOO}:4000"), "lan")?;
        let closed = world.server(false, &format!("{PRIVATE}:4001"), "closed")?;
        world.name("models.lan", &[PRIVATE_TOO])?;
        world.name("other.lan", &[PRIVATE_TOO])?;
        reached(
            &dial(&client, "agent", &id, &format!("{PRIVATE}:4000"))?,
            "private",
        )?;
        reached(&dial(&client, "agent", &id, "127.0.0.1:4000")?, "loopback")?;
        reached(&dial(&client, "agent", &id, "models.lan:4000")?, "lan")?;
        for target in [
            format!("{PRIVATE}:4001"),
            "other.lan:4000".into(),
            format!("{PRIVATE_TOO}:4000"),
            format!("{METADATA}:4000"),
        ] {
            refused(&dial(&client, "agent", &id, &target)?).with_context(|| target)?;
        }
        ensure!((inside.met(), open.met(), lan.met(), closed.met()) == (1, 1, 1, 0));
        Ok(())
    })
}

#[test]
fn none_means_no_proxy_and_the_operators_ceiling_holds() -> Result {
    ground!(Daemon, Python, Command("ip"), Command("nsenter"));
    with("", |world, daemon| {
        let client = daemon.client();
        chaos::deploy(
            &client,
            "closed",
            "sdk",
            json!({"network": {"mode": "none"}}),
        )?;
        let id = session_name("none");
        let public = world.server(false, &format!("{PUBLIC}:4000"), "public")?;
        let answer = dial(&client, "closed", &id, &format!("{PUBLIC}:4000"))?;
        ensure!(
            answer["error"]
                .as_str()
                .is_some_and(|e| e.contains("no proxy")),
            "{answer}"
        );
        // And nothing listens on its loopback but the agent.
        let seen = client.invoke("closed", &id, &json!({"do": "find_control_sockets"}))?;
        let ports: Vec<_> = seen["listening"]
            .as_object()
            .context("listening")?
            .keys()
            .cloned()
            .collect();
        ensure!(ports == ["8080"], "{ports:?}");
        ensure!(public.met() == 0);
        Ok(())
    })?;
    with(
        "[network]\nmode = \"none\"\nceiling = \"none\"",
        |_, daemon| {
            let client = daemon.client();
            chaos::deploy(&client, "default", "sdk", json!({}))?;
            let answer = dial(
                &client,
                "default",
                &session_name("ceiling"),
                &format!("{PUBLIC}:4000"),
            )?;
            ensure!(answer["error"].is_string(), "{answer}");
            let refused = chaos::deploy(
                &client,
                "wide",
                "sdk",
                json!({"network": {"mode": "outbound"}}),
            );
            let error = format!(
                "{:#}",
                refused
                    .err()
                    .context("a runtime got more than the operator's ceiling")?
            );
            ensure!(error.contains("network"), "{error}");
            Ok(())
        },
    )
}

#[test]
fn the_proxy_bears_bad_requests_floods_and_clients_that_go_away() -> Result {
    ground!(Daemon, Python, Command("ip"), Command("nsenter"));
    with("[network]\nmax_connections = 16", |world, daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "agent", "sdk", json!({}))?;
        let id = session_name("bad");
        let public = world.server(false, &format!("{PUBLIC}:4000"), "public")?;
        for (what, bytes) in [
            ("nonsense", "\x16\x03\x01\r\n\r\n".to_owned()),
            ("no port", "CONNECT example.com HTTP/1.1\r\n\r\n".to_owned()),
            ("port 0", format!("CONNECT {PUBLIC}:0 HTTP/1.1\r\n\r\n")),
            (
                "port 65536",
                format!("CONNECT {PUBLIC}:65536 HTTP/1.1\r\n\r\n"),
            ),
            (
                "huge",
                format!(
                    "CONNECT {PUBLIC}:4000 HTTP/1.1\r\nx: {}\r\n\r\n",
                    "a".repeat(200_000)
                ),
            ),
            (
                "nul",
                format!("CONNECT {PUBLIC}\0.evil:4000 HTTP/1.1\r\n\r\n"),
            ),
            (
                "user info",
                format!("CONNECT a@{PUBLIC}:4000 HTTP/1.1\r\n\r\n"),
            ),
        ] {
            let answer = client.invoke(
                "agent",
                &id,
                &json!({"do": "proxy_raw", "send": bytes, "timeout": 15}),
            )?;
            let received = answer["received"].as_str().unwrap_or_default();
            ensure!(!received.contains(" 200"), "{what}: {answer}");
        }
        ensure!(public.met() == 0);
        let flood = client.invoke("agent", &id, &json!({"do": "connect_flood", "count": 500, "keep": true, "send": format!("CONNECT {PUBLIC}:4000 HTTP/1.1\r\n\r\n")}))?;
        ensure!(
            public.met() <= 16,
            "{} connections at once; {flood}",
            public.met()
        );
        client.invoke("agent", &id, &json!({"do": "release_connections"}))?;
        // Another session is served during the flood, and this one after it.
        client.invoke(
            "agent",
            &id,
            &json!({"do": "connect_flood", "count": 500, "keep": true}),
        )?;
        reached(
            &dial(
                &client,
                "agent",
                &session_name("other"),
                &format!("{PUBLIC}:4000"),
            )?,
            "public",
        )?;
        client.invoke("agent", &id, &json!({"do": "release_connections"}))?;
        e2e::wait::until_true(20, "the flooded session to be served again", || {
            Ok(reached(
                &dial(&client, "agent", &id, &format!("{PUBLIC}:4000"))?,
                "public",
            )
            .is_ok())
        })
    })
}

#[test]
fn an_address_that_becomes_the_hosts_own_is_refused_from_then_on() -> Result {
    ground!(Daemon, Python, Command("ip"), Command("nsenter"));
    with("", |world, daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "agent", "sdk", json!({}))?;
        let id = session_name("moved");
        let outside = world.server(false, &format!("{PUBLIC}:4000"), "outside")?;
        reached(
            &dial(&client, "agent", &id, &format!("{PUBLIC}:4000"))?,
            "outside",
        )?;
        world.add_inside(PUBLIC)?;
        let inside = world.server(true, &format!("{PUBLIC}:4000"), "inside")?;
        refused(&dial(&client, "agent", &id, &format!("{PUBLIC}:4000"))?)?;
        ensure!((outside.met(), inside.met()) == (1, 0));
        Ok(())
    })
}

#[test]
fn a_session_opens_connections_at_a_pace() -> Result {
    ground!(Daemon, Python, Command("ip"), Command("nsenter"));
    with("[network]\nmax_connections = 4096", |world, daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "agent", "sdk", json!({}))?;
        let id = session_name("pace");
        client.invoke("agent", &id, &json!({"do": "echo"}))?;
        let public = world.server(false, &format!("{PUBLIC}:4000"), "public")?;
        let connect = format!("CONNECT {PUBLIC}:4000 HTTP/1.1\r\n\r\n");
        let begun = std::time::Instant::now();
        let flood = client.invoke(
            "agent",
            &id,
            &json!({"do": "connect_flood", "count": 800, "keep": true, "send": connect}),
        )?;
        ensure!(flood["connections"] == 800, "{flood}");
        // What the daemon would dial in no time, were it not paced.
        std::thread::sleep(std::time::Duration::from_millis(500));
        let met = public.met();
        let due = 256 + 100 * (begun.elapsed().as_millis() / 1000 + 1);
        ensure!(
            (256..=due).contains(&(met as u128)),
            "{met} connections, {due} were due"
        );
        // Late, not lost; and nobody else's pace.
        reached(
            &dial(
                &client,
                "agent",
                &session_name("another"),
                &format!("{PUBLIC}:4000"),
            )?,
            "public",
        )?;
        e2e::wait::until_true(30, "all connections to be made", || Ok(public.met() == 801))
    })
}

#[test]
fn all_sessions_together_leave_the_daemon_its_descriptors() -> Result {
    ground!(
        Daemon,
        Python,
        Command("ip"),
        Command("nsenter"),
        Command("prlimit")
    );
    let world = World::new()?;
    let mut options = Options::quick();
    // A quarter of these are for 32 connections.
    options.wrap = [
        vec!["prlimit".to_owned(), "--nofile=256".to_owned()],
        world.wrap(),
    ]
    .concat();
    Daemon::with(options, |daemon| {
        let client = daemon.client();
        chaos::deploy(&client, "agent", "sdk", json!({}))?;
        let (greedy, other) = (session_name("greedy"), session_name("other"));
        let target = format!("{PUBLIC}:4000");
        let public = world.server(false, &target, "public")?;
        let connect = format!("CONNECT {target} HTTP/1.1\r\n\r\n");
        let flood = json!({"do": "connect_flood", "count": 100, "keep": true, "send": connect});
        client.invoke("agent", &greedy, &flood)?;
        e2e::wait::until_true(10, "the budget to be spent", || Ok(public.met() == 32))?;
        let answer = e2e::wait::until(10, "the flood to be turned away", || {
            let answer = dial(&client, "agent", &other, &target)?;
            Ok(answer["status"]
                .as_str()
                .is_some_and(|s| !s.is_empty())
                .then_some(answer))
        })?;
        ensure!(
            answer["status"]
                .as_str()
                .is_some_and(|s| s.contains(" 503")),
            "{answer}"
        );
        ensure!(public.met() == 32, "{} connections", public.met());
        ensure!(client.session(&other)?.egress_refused > 0, "not counted");
        client.invoke("agent", &greedy, &json!({"do": "release_connections"}))?;
        e2e::wait::until_true(20, "the other session to be served", || {
            Ok(reached(&dial(&client, "agent", &other, &target)?, "public").is_ok())
        })
    })
}
