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
        Some(url) => text.push_str(&boto3(&url, info, runtime)),
        None => text.push_str(&format!(
            "  python3 -c 'from agentcore_client import RuntimeClient; \
             print(RuntimeClient(\"{name}\").invoke({{\"prompt\": \"Hello\"}}))'\n\
             \x20 boto3 needs a TCP address: start the daemon with --dev or --listen"
        )),
    }
    text
}

fn boto3(url: &str, info: &Info, runtime: &Runtime) -> String {
    let region = runtime.arn.split(':').nth(3).unwrap_or("us-local-1");
    let name = &runtime.name;
    if runtime.config.authorizer.is_some() {
        return format!(
            "  # over TCP with a bearer token of its issuer: POST {url}/runtimes/{name}/invocations"
        );
    }
    let (who, credentials) = if info.auth.iter().any(|word| word == "sigv4") {
        let who = format!(
            "  # Python, with the AWS_… variables that `agentcore keys create {name} -a {name}` prints\n"
        );
        (who, "")
    } else {
        // boto3 wants some credentials before it sends anything; without authentication they are not looked at.
        let any =
            ",\n                        aws_access_key_id=\"any\", aws_secret_access_key=\"any\"";
        ("  # Python\n".to_owned(), any)
    };
    format!(
        "{who}\
         \x20 import boto3\n\
         \x20 client = boto3.client(\"bedrock-agentcore\", region_name=\"{region}\", endpoint_url=\"{url}\"{credentials})\n\
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(auth: &[&str], config: serde_json::Value) -> String {
        let info = json!({
            "version": "1", "instance": "abcd", "pid": 1, "kernel": "6", "base": {}, "sessions": 0,
            "listen": ["http://127.0.0.1:8080"], "auth": auth, "startedAt": "",
        });
        let mut all = json!({"name": "notes", "entrypoint": "a.py"});
        if let (Some(all), Some(more)) = (all.as_object_mut(), config.as_object()) {
            all.extend(more.clone());
        }
        let runtime = json!({
            "runtimeId": "notes-AbCdEf1234", "arn": "arn:aws:bedrock-agentcore:us-here-1:0:runtime/notes-AbCdEf1234",
            "name": "notes", "version": 1, "status": "READY", "config": all, "artifact": "a".repeat(64), "sessions": 0,
            "createdAt": "", "updatedAt": "",
        });
        let info = serde_json::from_value(info).expect("info");
        let runtime = serde_json::from_value(runtime).expect("runtime");
        text(&Endpoint::Unix("/run/api.sock".into()), &info, &runtime)
    }

    #[test]
    fn python_is_told_the_credentials_that_will_do() {
        let open = told(&["none"], json!({}));
        assert!(open.contains("aws_access_key_id=\"any\""), "{open}");
        let signed = told(&["sigv4", "jwt"], json!({}));
        assert!(
            signed.contains("agentcore keys create") && !signed.contains("\"any\""),
            "{signed}"
        );
        let issuer = "https://issuer/.well-known/openid-configuration";
        let authorizer = json!({"authorizer": {"discovery_url": issuer}});
        let bearer = told(&["sigv4", "jwt"], authorizer);
        assert!(
            bearer.contains("bearer token") && !bearer.contains("boto3"),
            "{bearer}"
        );
    }
}
