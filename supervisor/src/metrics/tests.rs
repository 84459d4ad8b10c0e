use super::*;

fn name(text: &str) -> RuntimeName {
    RuntimeName::parse(text).expect("a name")
}

fn text(metrics: &Metrics) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &metrics.registry).expect("text");
    text
}

#[test]
fn runtimes_beyond_the_bound_share_a_label() {
    let metrics = Metrics::new(&seconds());
    for number in 0..MOST_AGENTS + 50 {
        let of = metrics.of(&name(&format!("agent_{number}")));
        of.answered(false, 200, Duration::from_millis(1));
    }
    let text = text(&metrics);
    let counted = text
        .lines()
        .filter(|line| line.starts_with("agentcore_invocations_total{"));
    assert_eq!(counted.count(), MOST_AGENTS + 1);
    assert!(
        text.contains(
            "agentcore_invocations_total{agent=\"-other-\",mode=\"sync\",code=\"200\"} 50"
        ),
        "{text}"
    );
    // Known ones stay known.
    metrics.of(&name("agent_0")).taken(7);
    assert!(
        super::tests::text(&metrics).contains("agentcore_request_bytes_total{agent=\"agent_0\"} 7")
    );
}

#[test]
fn an_invocation_is_in_flight_as_long_as_its_value_lives() {
    let metrics = Metrics::new(&seconds());
    let of = metrics.of(&name("agent"));
    let one = of.begin();
    let line = "agentcore_inflight_invocations{agent=\"agent\"}";
    assert!(text(&metrics).contains(&format!("{line} 1")));
    drop(one);
    assert!(text(&metrics).contains(&format!("{line} 0")));
    let done = "agentcore_invocation_duration_seconds_count{agent=\"agent\"} 1";
    assert!(text(&metrics).contains(done));
}

#[test]
fn the_older_form_names_counters_as_their_samples_are_named() {
    let metrics = Metrics::new(&seconds());
    metrics.requested("InvokeAgentRuntime", 200, Duration::from_millis(3));
    let old = classic(&text(&metrics));
    for line in [
        "# TYPE agentcore_requests_total counter",
        "agentcore_requests_total{operation=\"InvokeAgentRuntime\",code=\"200\"} 1",
        "# TYPE agentcore_request_seconds histogram",
        "# TYPE agentcore_build_info gauge",
    ] {
        assert!(
            old.lines().any(|each| each == line),
            "{line} is not in {old}"
        );
    }
    assert!(!old.contains("# EOF") && !old.contains("# TYPE agentcore_requests counter"));
}
