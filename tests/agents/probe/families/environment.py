"""P06: the environment holds what the runtime's version sets and what the contract names, nothing of the daemon's."""

import fnmatch

import at_start
from registry import group, probe
from verdict import judge

# What interfaces.md, the contract §1.9 and a Unix program's needs name; the version's own come as canaries["env"].
EXPECTED = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_*", "TZ", "TERM", "TMPDIR", "PWD", "HOSTNAME", "PORT", "DOCKER_CONTAINER",
    "AWS_REGION", "AWS_DEFAULT_REGION", "AGENTCORE_*", "BEDROCK_AGENTCORE_*", "AGENT_OBSERVABILITY_ENABLED", "OTEL_*",
    "PYTHON*", "NODE_*", "NPM_*", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
    "FASTMCP_PORT", "A2A_PORT", "UV_*", "PIP_*", "XDG_*_HOME",
)

NEVER = {
    "notify_socket": ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "MAINPID"),
    "listen_fds": ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID", "FDSTORE"),
    "journal": ("JOURNAL_STREAM", "INVOCATION_ID", "SYSTEMD_EXEC_PID", "LOG_NAMESPACE"),
    "directories": ("STATE_DIRECTORY", "RUNTIME_DIRECTORY", "CREDENTIALS_DIRECTORY", "CONFIGURATION_DIRECTORY", "LOGS_DIRECTORY"),
    "loader": ("LD_*", "GCONV_PATH", "GLIBC_TUNABLES", "MALLOC_*"),
    "sockets": ("SSH_*", "DBUS_*", "DISPLAY", "WAYLAND_DISPLAY", "DOCKER_HOST", "XAUTHORITY"),
    "cloud_keys": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GOOGLE_*", "AZURE_*", "*_API_KEY"),
    "tokens": ("GITHUB_*", "GITLAB_*", "CI", "CI_*", "CARGO*", "RUST*", "SUDO_*", "*_TOKEN", "*_SECRET", "*_PASSWORD"),
    "daemon": ("AGENTCORED_*",),
}


def _given(subject):
    """Names that the version itself sets (the probe's own launch)."""
    return subject.canaries.get("env", {})


@probe("P06.allow", harmless=True)
def only_expected_names(subject):
    given = _given(subject)
    strange = [
        name for name in at_start.ENVIRONMENT
        if name not in given and not any(fnmatch.fnmatchcase(name, pattern) for pattern in EXPECTED)
    ]
    return judge(not strange, f"names nobody set for the session: {strange[:8]}")


@group("P06", NEVER, harmless=True)
def never_passed_on(subject, _name, patterns):
    given = _given(subject)
    found = [
        name for name in at_start.ENVIRONMENT
        if name not in given and any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    ]
    return judge(not found, f"passed on: {found}")


@probe("P06.canary")
def variable_of_the_daemon(subject):
    """The harness starts the daemon with this variable set."""
    name, value = subject.canary("env_secret", "name"), subject.canary("env_secret", "value")
    found = [key for key, text in at_start.ENVIRONMENT.items() if key == name or value in text]
    return judge(not found, f"the daemon's variable arrived as {found}")


@probe("P06.version", must_work=True)
def variables_of_the_version(subject):
    """The other way round: what the version sets must arrive unchanged."""
    wrong = [name for name, value in subject.canary("env").items() if at_start.ENVIRONMENT.get(name) != value]
    return judge(not wrong, f"missing or changed: {wrong}")


@probe("P06.path")
def search_path(_subject):
    usual = {"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/app", "/app/bin", "/app/.venv/bin"}
    strange = [part for part in at_start.ENVIRONMENT.get("PATH", "").split(":") if part and part not in usual]
    return judge(not strange, f"PATH leads to {strange}")
