//! A registry of schemas with the paths that Confluent's has, and Apicurio's behind a prefix.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use tidemill::serde_json::{Value, json};

/// It answers for as long as the process lives.
#[derive(Debug, Clone)]
pub struct Registry {
    port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    schemas: Vec<Value>,
    /// The numbers of a subject's versions.
    subjects: BTreeMap<String, Vec<usize>>,
    /// What was asked.
    asked: Vec<String>,
    /// What `authorization` has to be.
    authorization: Option<String>,
    is_closed: bool,
}

impl Registry {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let registry = Self { port: listener.local_addr().unwrap().port(), state: Arc::default() };
        let state = Arc::clone(&registry.state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let state = Arc::clone(&state);
                std::thread::spawn(move || serve(stream.unwrap(), &state));
            }
        });
        registry
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Registers `schema`, and gives its number.
    pub fn add(&self, subject: &str, schema: &str) -> u32 {
        self.state.lock().unwrap().register(subject, json!({ "schema": schema }))
    }

    /// Registers a schema that consists of others; `resolved` is all of it.
    pub fn add_with_parts(&self, subject: &str, schema: &str, resolved: &str) -> u32 {
        let parts = json!([{ "name": "part", "subject": "part", "version": 1 }]);
        let schema = json!({ "schema": schema, "references": parts, "resolved": resolved });
        self.state.lock().unwrap().register(subject, schema)
    }

    /// The newest schema of a subject.
    pub fn latest(&self, subject: &str) -> Value {
        let state = self.state.lock().unwrap();
        let id = state.subjects[subject].last().unwrap();
        tidemill::serde_json::from_str(state.schemas[id - 1]["schema"].as_str().unwrap()).unwrap()
    }

    /// What was asked since this was called last.
    pub fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }

    /// Lets in only those who say so.
    pub fn expect(&self, authorization: &str) {
        self.state.lock().unwrap().authorization = Some(authorization.into());
    }

    /// Takes no more schemas.
    pub fn close(&self) {
        self.state.lock().unwrap().is_closed = true;
    }
}

impl State {
    fn register(&mut self, subject: &str, schema: Value) -> u32 {
        let known = self.schemas.iter().position(|known| known["schema"] == schema["schema"]);
        let id = 1 + known.unwrap_or_else(|| {
            self.schemas.push(schema);
            self.schemas.len() - 1
        });
        let versions = self.subjects.entry(subject.to_string()).or_default();
        if !versions.contains(&id) {
            versions.push(id);
        }
        u32::try_from(id).unwrap()
    }

    fn answer(&mut self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let path = path.strip_prefix("/apis/ccompat/v7").unwrap_or(path);
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let missing = |code: u32, what: &str| (404, json!({ "error_code": code, "message": what }));
        let plain =
            |schema: &Value| tidemill::serde_json::from_str(schema["schema"].as_str().unwrap()).unwrap();
        match (method, parts.as_slice()) {
            // Apicurio's own.
            (
                "GET",
                ["apis", "registry", "v2", "ids", "globalIds", id]
                | ["apis", "registry", "v3", "ids", "contentIds", id],
            ) => match self.schemas.get(id.parse::<usize>().unwrap() - 1) {
                Some(schema) => (200, plain(schema)),
                None => missing(404, "No artifact with ID"),
            },
            ("GET", ["schemas", "ids", id]) => match self.schemas.get(id.parse::<usize>().unwrap() - 1) {
                Some(schema) if query == "format=resolved" => (200, json!({ "schema": schema["resolved"] })),
                Some(schema) => (200, schema.clone()),
                None => missing(40403, "Schema not found"),
            },
            ("GET", ["subjects", subject, "versions", "latest"]) => {
                match self.subjects.get(*subject).and_then(|versions| versions.last()) {
                    Some(id) => {
                        let (schema, parts) =
                            (&self.schemas[id - 1]["schema"], &self.schemas[id - 1]["references"]);
                        let mut found =
                            json!({ "subject": subject, "version": 1, "id": id, "schema": schema });
                        if parts.is_array() {
                            found["references"] = parts.clone();
                        }
                        (200, found)
                    }
                    None => missing(40401, "Subject not found"),
                }
            }
            ("POST", ["subjects", _, "versions"]) if self.is_closed => {
                (409, json!({ "error_code": 409, "message": "Schema being registered is incompatible" }))
            }
            ("POST", ["subjects", subject, "versions"]) => {
                let id = self.register(subject, json!({ "schema": body["schema"] }));
                (200, json!({ "id": id }))
            }
            ("POST", ["subjects", subject]) => {
                let known = self.schemas.iter().position(|known| known["schema"] == body["schema"]);
                match known
                    .filter(|at| self.subjects.get(*subject).is_some_and(|ids| ids.contains(&(at + 1))))
                {
                    Some(at) => (
                        200,
                        json!({ "subject": subject, "version": 1, "id": at + 1, "schema": body["schema"] }),
                    ),
                    None => missing(40403, "Schema not found"),
                }
            }
            _ => missing(404, "HTTP 404 Not Found"),
        }
    }
}

/// Answers what comes over one connection.
fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let (mut length, mut authorization) = (0, None);
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).unwrap();
            let Some((name, value)) = header.trim_end().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().unwrap(),
                "authorization" => authorization = Some(value.to_string()),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let mut state = state.lock().unwrap();
        state.asked.push(format!("{} {}", words[0], words[1]));
        let body = tidemill::serde_json::from_slice(&body).unwrap_or_default();
        let (status, answer) = match &state.authorization {
            Some(expected) if authorization.as_ref() != Some(expected) => {
                (401, json!({ "error_code": 401, "message": "Unauthorized" }))
            }
            _ => state.answer(words[0], words[1], &body),
        };
        let answer = answer.to_string();
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/vnd.schemaregistry.v1+json\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        stream.write_all(format!("{head}{answer}").as_bytes()).unwrap();
    }
}
