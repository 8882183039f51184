//! A tiny HTTP/1.1 client over plain sockets, and the real server as a child process.
//!
//! The client shares no code with the server, so that both cannot be wrong in the same way.
#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod in_process;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

/// Longest wait for an answer: far beyond what any test needs, so that a hang becomes a failure.
const PATIENCE: Duration = Duration::from_mins(1);

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// A header by its lower-case name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// The body as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }
}

/// One connection.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
    /// What it calls the server.
    host: String,
}

impl Client {
    /// Connects.
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), host: address.to_string() })
    }

    /// One request and its answer.
    pub(crate) fn send(&mut self, method: &str, target: &str, body: &[u8]) -> io::Result<Reply> {
        self.send_with(method, target, "", body)
    }

    /// One request with headers (`name: value\r\n` each) and its answer. A `Host` and the type of a
    /// body are sent where they are not among them.
    pub(crate) fn send_with(
        &mut self,
        method: &str,
        target: &str,
        headers: &str,
        body: &[u8],
    ) -> io::Result<Reply> {
        let length = if body.is_empty() && matches!(method, "GET" | "HEAD" | "DELETE") {
            String::new()
        } else {
            format!("content-length: {}\r\n", body.len())
        };
        let given = |name: &str| {
            headers.lines().any(|line| {
                line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
            })
        };
        let host = if given("host:") { String::new() } else { format!("host: {}\r\n", self.host) };
        let typed = method == "POST" && !given("content-type:");
        let kind = if typed { "content-type: application/json\r\n" } else { "" };
        let mut request =
            format!("{method} {target} HTTP/1.1\r\n{host}{kind}{length}{headers}\r\n").into_bytes();
        request.extend_from_slice(body);
        self.write(&request)?;
        self.reply(method)
    }

    /// Raw bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Reads one answer to a request of `method`.
    pub(crate) fn reply(&mut self, method: &str) -> io::Result<Reply> {
        let status_line = self.line()?;
        let status = status_line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| broken(&status_line))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| broken(&line))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut reply = Reply { status, headers, body: Vec::new() };
        if method != "HEAD" && status != 304 {
            reply.body = self.body(&reply)?;
        }
        Ok(reply)
    }

    fn body(&mut self, reply: &Reply) -> io::Result<Vec<u8>> {
        if reply.header("transfer-encoding") == Some("chunked") {
            return self.chunks();
        }
        let length = reply.header("content-length").and_then(|length| length.parse().ok());
        self.exactly(length.ok_or_else(|| broken("no content-length"))?)
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let length = usize::from_str_radix(&line, 16).map_err(|_| broken(&line))?;
            body.extend(self.exactly(length)?);
            self.line()?;
            if length == 0 {
                return Ok(body);
            }
        }
    }

    fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// A line of a head.
    pub(crate) fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }

    /// One read.
    pub(crate) fn read_some(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }

    /// The first bytes of what came; none if the connection was reset.
    pub(crate) fn some_bytes(&mut self) -> Vec<u8> {
        let mut buffer = vec![0; 64];
        let read = self.stream.read(&mut buffer).unwrap_or(0);
        buffer.truncate(read);
        buffer
    }

    /// Waits until the server closes; what it sent before that.
    pub(crate) fn until_closed(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => rest,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => rest,
            Err(error) => panic!("the server did not close: {error}"),
        }
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not HTTP: {what:?}"))
}

/// The real server.
pub(crate) struct Server {
    child: Child,
    /// Kept open: a server whose standard output is closed may not write to it.
    lines: BufReader<ChildStdout>,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// The lines it printed first.
    pub(crate) announced: Vec<String>,
}

impl Server {
    /// Starts `millpond serve` on a free port and waits until it serves.
    pub(crate) fn start(data: &Path, flags: &[&str]) -> Self {
        Self::start_program(Path::new(env!("CARGO_BIN_EXE_millpond")), data, flags)
    }

    /// The same of a program that lies elsewhere.
    pub(crate) fn start_program(program: &Path, data: &Path, flags: &[&str]) -> Self {
        Self::start_command(Command::new(program), data, flags)
    }

    /// The same of a command that has its environment, and where its standard error goes.
    pub(crate) fn start_command(mut command: Command, data: &Path, flags: &[&str]) -> Self {
        command.args(["serve", "--data"]).arg(data);
        for (option, value) in [("--listen", "127.0.0.1:0"), ("--log", "warn")] {
            if !flags.contains(&option) {
                command.args([option, value]);
            }
        }
        command.arg("--allow-volatile");
        if !takes_direct_io(data) && !flags.contains(&"--allow-buffered") {
            command.arg("--allow-buffered");
        }
        let mut child = command.args(flags).stdout(Stdio::piped()).spawn().unwrap();
        // The one handle that a test may have given it.
        drop(command);
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let announced: Vec<String> = (0..3)
            .map(|_| {
                let mut line = String::new();
                lines.read_line(&mut line).unwrap();
                line.trim_end().to_owned()
            })
            .collect();
        let address = announced[0].strip_prefix("listening on http://");
        let Some(address) = address.and_then(|address| address.parse().ok()) else {
            panic!("the server did not start: {announced:?}, {:?}", child.wait());
        };
        Self { child, lines, address, announced }
    }

    /// A connection to it.
    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address).unwrap()
    }

    /// `kill -9`, at once.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// As Ctrl-C does.
    pub(crate) fn interrupt(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already after `kill` and `wait`.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Whether the file system of `directory` takes direct I/O.
fn takes_direct_io(directory: &Path) -> bool {
    use std::os::unix::fs::OpenOptionsExt;
    let probe = directory.join("probe");
    let flags = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap();
    let opened =
        std::fs::OpenOptions::new().write(true).create(true).custom_flags(flags).open(&probe);
    // Where it could not be created there is nothing to remove.
    drop(std::fs::remove_file(&probe));
    opened.is_ok()
}
