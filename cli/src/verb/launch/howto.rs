//! Lines to copy: how to call a runtime from a shell, with curl, and from Python.

use crate::endpoint::Endpoint;
use proto::api::{Info, Runtime};
use std::net::SocketAddr;

/// All ways that work with this daemon.
pub(super) fn text(endpoint: &Endpoint, info: &Info, runtime: &Runtime) -> String {
    let name = &runtime.name;
    let payload = r#"'{"prompt": "Hello"}'"#;
    let curl = match endpoint {
        Endpoint::Unix(path) => format!("--unix-socket {} http://localhost", path.display()),
        Endpoint::Tcp(_) => endpoint.to_string(),
    };
    let named = match endpoint.to_string() {
        default if default == crate::endpoint::DEFAULT => String::new(),
        other => format!(" --endpoint {other}"),
    };
    let mut text = format!(
        "Call it:\n\
         \x20 agentcore{named} invoke {payload} -a {name}\n\
         \x20 curl -d {payload} -H 'Content-Type: application/json' {curl}/runtimes/{name}/invocations\n"
    );
    match http(endpoint, info) {
        Some(url) => text.push_str(&boto3(&url, runtime)),
        None => text.push_str(&format!(
            "  python3 -c 'from agentcore_client import RuntimeClient; \
             print(RuntimeClient(\"{name}\").invoke({{\"prompt\": \"Hello\"}}))'\n\
             \x20 boto3 needs a TCP address: start the daemon with --dev or --listen"
        )),
    }
    text
}

fn boto3(url: &str, runtime: &Runtime) -> String {
    let region = runtime.arn.split(':').nth(3).unwrap_or("us-local-1");
    // boto3 wants some credentials before it sends anything; without authentication they are not looked at.
    format!(
        "  # Python\n\
         \x20 import boto3\n\
         \x20 client = boto3.client(\"bedrock-agentcore\", region_name=\"{region}\", endpoint_url=\"{url}\",\n\
         \x20                       aws_access_key_id=\"any\", aws_secret_access_key=\"any\")\n\
         \x20 answer = client.invoke_agent_runtime(agentRuntimeArn=\"{}\", payload=b'{{\"prompt\": \"Hello\"}}')\n\
         \x20 print(answer[\"response\"].read())",
        runtime.arn
    )
}

/// A TCP address: ours, or one that the daemon says it listens on.
fn http(endpoint: &Endpoint, info: &Info) -> Option<String> {
    if let Endpoint::Tcp(_) = endpoint {
        return Some(endpoint.to_string());
    }
    info.listen.iter().find_map(|address| {
        let bare = address
            .strip_prefix("http://")
            .or_else(|| address.strip_prefix("tcp:"));
        let address: SocketAddr = bare.unwrap_or(address).parse().ok()?;
        // A wildcard is no address to call.
        let host = match address.ip() {
            ip if ip.is_unspecified() => SocketAddr::from(([127, 0, 0, 1], address.port())),
            _ => address,
        };
        Some(format!("http://{host}"))
    })
}
