//! The same client as bootstrap.c, with Rust's standard library only.
use std::io::{Read, Write};
use std::net::TcpStream;

fn call(method: &str, path: &str, body: &str) -> String {
    let address = std::env::var("AWS_LAMBDA_RUNTIME_API").unwrap();
    let mut sock = TcpStream::connect(address).unwrap();
    write!(sock, "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut answer = String::new();
    sock.read_to_string(&mut answer).unwrap();
    answer
}

fn errno<T>(result: std::io::Result<T>) -> i32 {
    result.err().and_then(|error| error.raw_os_error()).unwrap_or(0)
}

fn main() {
    let answer = call("GET", "/2018-06-01/runtime/invocation/next", "");
    let (head, payload) = answer.split_once("\r\n\r\n").unwrap();
    let name = "lambda-runtime-aws-request-id: ";
    let id = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix(name).map(str::to_owned)).unwrap();
    if payload.contains("\"segv\"") {
        unsafe { std::ptr::null_mut::<i32>().write_volatile(1) };
    }
    while payload.contains("\"spin\"") {}
    let executed = errno(std::process::Command::new("/bin/sh").args(["-c", "id"]).status());
    let port = payload.split_once("\"port\": ").map(|(_, rest)| rest.split([',', '}']).next().unwrap().trim().to_owned());
    let reached = port.map_or(0, |port| -errno(TcpStream::connect(format!("127.0.0.1:{port}"))));
    let opened = errno(std::fs::File::open("/etc/passwd"));
    let body = format!("{{\"payload\": {payload}, \"exec\": {executed}, \"connect\": {reached}, \"open\": {opened}}}");
    call("POST", &format!("/2018-06-01/runtime/invocation/{id}/response"), &body);
}
