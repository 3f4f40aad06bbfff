//! The command line's side of the bus: typed calls, typed refusals.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bundle::json;
use bundle::reason::Reason;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Duration, timeout};
use updater_core::history::Outcome;
use updater_core::status::{Explanation, Status};
use zbus::message::{Flags, Type as Kind};
use zbus::{
    Connection, Fd, MatchRule, Message, MessageStream, OwnedObjectPath, OwnedVariant, Structure, Type, Variant,
    connection, fdo,
};

use super::error::reason_of;
use super::values::Dict;
use super::{Arguments, NAME, PATH, announce, arguments};

/// The daemon is started on demand and reconciles first, on a slow device with a full journal.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// For a change, which may have to wait for a password: until after the daemon has given that up.
const CHANGE_TIMEOUT: Duration = announce::CALL_TIMEOUT.saturating_add(CALL_TIMEOUT);

/// Why a call did not give an answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no bus.
    #[error("there is no system bus")]
    NoBus(#[source] zbus::Error),
    /// There is a bus and the daemon can not be started.
    #[error("the daemon does not answer")]
    NoDaemon(#[source] zbus::Error),
    /// The daemon answers and knows no such job: it is another one than the one that began it.
    #[error("the daemon knows no such job")]
    NoJob,
    /// The daemon said no.
    #[error("{detail}")]
    Refused {
        /// Why.
        reason: Reason,
        /// A sentence.
        detail: String,
    },
    /// The daemon is of another version, or broken.
    #[error("the daemon's answer makes no sense: {0}")]
    Answer(String),
}

/// The object path of a job.
pub type JobPath = OwnedObjectPath;

/// A connection to the daemon.
#[derive(Debug, Clone)]
pub struct Client {
    connection: Connection,
    unattended: bool,
}

impl Client {
    /// Connects to the bus of the device, or of a simulation (see [`super::builder`]).
    ///
    /// # Errors
    /// [`ClientError::NoBus`].
    pub async fn open(simulated: bool) -> Result<Self, ClientError> {
        Self::connect(super::builder(simulated)).await
    }

    /// Connects to the bus. The daemon is started by the first call.
    ///
    /// # Errors
    /// [`ClientError::NoBus`].
    pub async fn connect(builder: connection::Builder<'_>) -> Result<Self, ClientError> {
        // A bus that accepts and says nothing is none.
        let connected = timeout(CALL_TIMEOUT, builder.method_timeout(CALL_TIMEOUT).build()).await;
        let connection = connected.unwrap_or_else(|_| Err(timed_out())).map_err(ClientError::NoBus)?;
        Ok(Self { connection, unattended: false })
    }

    /// No person is waiting: a timer, a script of the system.
    #[must_use]
    pub fn unattended(self, unattended: bool) -> Self {
        Self { unattended, ..self }
    }

    /// Our own name on the bus.
    #[cfg(test)]
    pub(crate) fn unique_name(&self) -> String {
        self.connection.unique_name().map(|n| n.to_string()).unwrap_or_default()
    }

    /// How long a change may take: a person may be asked for a password.
    fn patience(&self) -> Duration {
        if self.unattended { CALL_TIMEOUT } else { CHANGE_TIMEOUT }
    }

    /// Calls a method that takes texts and answers nothing.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn change(&self, method: &str, texts: &[&str]) -> Result<(), ClientError> {
        let mut arguments = Structure::builder();
        for text in texts {
            arguments.push_field(*text);
        }
        // Without a field there is no structure: the method takes nothing.
        self.call_at(PATH, NAME, method, arguments.build().ok(), self.patience()).await
    }

    /// Calls a method and waits for its answer, no longer than `limit`.
    async fn call_at<R>(
        &self,
        path: &str,
        interface: &str,
        method: &str,
        arguments: Arguments<'_>,
        limit: Duration,
    ) -> Result<R, ClientError>
    where
        R: DeserializeOwned + Type,
    {
        let exchange = self.exchange(path, interface, method, arguments);
        let reply = timeout(limit, exchange).await.unwrap_or_else(|_| Err(timed_out())).map_err(from_zbus)?;
        reply.body().deserialize().map_err(|e| ClientError::Answer(e.to_string()))
    }

    /// Sends a call and waits for its reply, for as long as it takes.
    ///
    /// By hand, because a call of the connection takes no flags, and the library's proxies, which do, bring a cache of
    /// properties that would be a hundredth of the binary.
    async fn exchange(
        &self,
        path: &str,
        interface: &str,
        method: &str,
        arguments: Arguments<'_>,
    ) -> zbus::Result<Message> {
        let mut call = Message::method_call(path, method).destination(NAME).interface(interface);
        if !self.unattended {
            // A person waits: polkit may ask for a password, and a backoff is not waited out.
            call = call.with_flags(Flags::ALLOW_INTERACTIVE_AUTH);
        }
        let call = match &arguments {
            None => call.build(&())?,
            Some(arguments) => call.build(arguments)?,
        };
        let serial = call.primary_header().serial_num();
        // Listens before it asks, or a quick reply would be missed.
        let mut replies = MessageStream::from(&self.connection);
        self.connection.send(&call).await?;
        while let Some(message) = next(&mut replies).await {
            let message = message?;
            if message.header().reply_serial() == Some(serial) {
                return if message.message_type() == Kind::Error { Err(message.into()) } else { Ok(message) };
            }
        }
        Err(zbus::Error::InputOutput(Arc::new(std::io::ErrorKind::ConnectionAborted.into())))
    }

    /// Status and explanation, whole.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn explain(&self) -> Result<(Status, Explanation), ClientError> {
        let dict: Dict = self.call_at(PATH, NAME, "Explain", None, CALL_TIMEOUT).await?;
        Ok((json_field(&dict, "status_json")?, json_field(&dict, "explanation_json")?))
    }

    /// The last outcomes, oldest first.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn history(&self) -> Result<Vec<Outcome>, ClientError> {
        let dicts: Vec<Dict> = self.call_at(PATH, NAME, "History", None, CALL_TIMEOUT).await?;
        dicts
            .into_iter()
            .map(|dict| json::from_value(&json_of(dict)).map_err(|e| ClientError::Answer(e.to_string())))
            .collect()
    }

    /// Installs; the path of the job. `file`: the bundle, opened by us, because the daemon may not see what we see.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn install(
        &self,
        source: &str,
        file: Option<File>,
        options: &[(&str, bool)],
    ) -> Result<JobPath, ClientError> {
        let mut options: HashMap<&str, Variant<'_>> = options.iter().map(|(k, v)| (*k, Variant::from(*v))).collect();
        if let Some(file) = file {
            options.insert("file", Variant::from(Fd::from(OwnedFd::from(file))));
        }
        self.call_at(PATH, NAME, "Install", arguments((source, options)), self.patience()).await
    }

    /// A job's result and detail; none while it runs.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn job_end(&self, job: &JobPath) -> Result<Option<(String, String)>, ClientError> {
        let at = "org.freedesktop.DBus.Properties";
        let of = arguments(("org.flipside.Updater1.Job",));
        let all: Dict = self.call_at(job.as_str(), at, "GetAll", of, CALL_TIMEOUT).await?;
        let text = |name: &str| all.get(name).and_then(|v| <&str>::try_from(v).ok()).unwrap_or_default().to_owned();
        Ok((text("State") == "done").then(|| (text("Result"), text("Detail"))))
    }

    /// Asks a job to stop.
    ///
    /// # Errors
    /// See [`ClientError`].
    #[cfg(test)]
    pub(crate) async fn cancel(&self, job: &JobPath) -> Result<(), ClientError> {
        self.call_at(job.as_str(), "org.flipside.Updater1.Job", "Cancel", None, self.patience()).await
    }

    /// Listens for changes of the service's properties. Does not start the daemon.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn changes(&self) -> Result<Changes, ClientError> {
        let mut stream = self.signals().await.map_err(from_zbus)?;
        let (changed, news) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let told = (Arc::clone(&changed), Arc::clone(&news));
        // Emptied by a task of its own: a full queue stops the whole connection, and the reply that its owner waits for
        // would never be read. Ends with the bus; the owner's next call will say so.
        let listener = tokio::spawn(async move {
            while let Some(message) = next(&mut stream).await {
                told.0.notify_one();
                if message.is_ok_and(|message| !is_progress(&message)) {
                    told.1.notify_one();
                }
            }
        });
        Ok(Changes { changed, news, listener })
    }

    async fn signals(&self) -> zbus::Result<MessageStream> {
        let rule = MatchRule::builder()
            .msg_type(Kind::Signal)
            .sender(NAME)
            .path(PATH)
            .interface("org.freedesktop.DBus.Properties")
            .member("PropertiesChanged")
            .build()?;
        MessageStream::for_match_rule(rule, &self.connection, None).await
    }
}

async fn next(stream: &mut MessageStream) -> Option<zbus::Result<Message>> {
    std::future::poll_fn(|context| {
        zbus::export::futures_core::Stream::poll_next(std::pin::Pin::new(&mut *stream), context)
    })
    .await
}

/// Whether a `PropertiesChanged` tells of progress alone.
fn is_progress(signal: &Message) -> bool {
    let changed = signal.body().deserialize::<(String, Dict, Vec<String>)>();
    // Ages grow with every picture.
    changed.is_ok_and(|(_, changed, _)| changed.keys().all(|name| matches!(name.as_str(), "Progress" | "ApprovalAge")))
}

fn timed_out() -> zbus::Error {
    zbus::Error::InputOutput(Arc::new(std::io::ErrorKind::TimedOut.into()))
}

/// Wakes when something changed.
pub struct Changes {
    changed: Arc<Notify>,
    news: Arc<Notify>,
    listener: JoinHandle<()>,
}

impl Changes {
    /// Ends when something changed since the last call, or after `at_most`: signals of a daemon that just left never
    /// come.
    pub async fn next(&mut self, at_most: Duration) {
        let _ = timeout(at_most, self.changed.notified()).await;
    }

    /// Looks away for so long, unless something else than progress changes.
    pub async fn pause(&mut self, at_most: Duration) {
        let _ = timeout(at_most, self.news.notified()).await;
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

fn json_field<T: DeserializeOwned>(dict: &Dict, name: &str) -> Result<T, ClientError> {
    let text = dict.get(name).and_then(|v| <&str>::try_from(v).ok());
    let text = text.ok_or_else(|| ClientError::Answer(format!("{name} is missing")))?;
    serde_json::from_slice(text.as_bytes()).map_err(|e| ClientError::Answer(format!("{name}: {e}")))
}

/// The way back of `values::dict`.
fn json_of(dict: Dict) -> serde_json::Value {
    fn value(of: &Variant<'_>) -> serde_json::Value {
        match of {
            Variant::Bool(b) => (*b).into(),
            Variant::U64(n) => (*n).into(),
            Variant::I64(n) => (*n).into(),
            Variant::F64(n) => (*n).into(),
            Variant::Str(s) => s.as_str().into(),
            Variant::Variant(inner) => value(inner),
            Variant::Array(items) => items.iter().map(value).collect(),
            Variant::Dict(entries) => {
                entries.iter().map(|(k, v)| (value(k).as_str().unwrap_or_default().to_owned(), value(v))).collect()
            }
            _ => serde_json::Value::Null,
        }
    }
    dict.iter().map(|(name, of): (&String, &OwnedVariant)| (name.clone(), value(of))).collect()
}

fn from_zbus(error: zbus::Error) -> ClientError {
    match &error {
        zbus::Error::MethodError(name, detail, _) => match reason_of(name.as_str()) {
            Some(reason) => ClientError::Refused { reason, detail: detail.clone().unwrap_or_default() },
            None => ClientError::NoDaemon(error),
        },
        // The library has types of its own for the bus's errors.
        zbus::Error::FDO(of_the_bus) => match &**of_the_bus {
            fdo::Error::AccessDenied(detail) => {
                let detail = if detail.is_empty() { "the bus policy forbids it" } else { detail };
                ClientError::Refused { reason: Reason::NotAuthorized, detail: detail.to_owned() }
            }
            fdo::Error::UnknownObject(_) => ClientError::NoJob,
            // An answer, of a daemon that is older or newer than we are.
            fdo::Error::UnknownMethod(_)
            | fdo::Error::UnknownInterface(_)
            | fdo::Error::UnknownProperty(_)
            | fdo::Error::InvalidArgs(_) => ClientError::Answer(error.to_string()),
            _ => ClientError::NoDaemon(error),
        },
        _ => ClientError::NoDaemon(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error as it comes from the bus.
    fn reply(name: &str, detail: &str) -> zbus::Error {
        let call = Message::method_call(PATH, "Check").build(&()).unwrap();
        Message::error(&call.header(), name).build(&(detail,)).unwrap().into()
    }

    #[test]
    fn errors_of_the_bus_are_told_from_those_of_the_daemon() {
        let bus = |name: &str| from_zbus(reply(&format!("org.freedesktop.DBus.Error.{name}"), "said"));
        let denied = bus("AccessDenied");
        assert!(matches!(denied, ClientError::Refused { reason: Reason::NotAuthorized, .. }), "{denied:?}");
        assert!(matches!(bus("UnknownObject"), ClientError::NoJob));
        assert!(matches!(bus("ServiceUnknown"), ClientError::NoDaemon(_)));
        for of_another_version in ["UnknownMethod", "UnknownInterface", "UnknownProperty", "InvalidArgs"] {
            let error = bus(of_another_version);
            assert!(matches!(&error, ClientError::Answer(detail) if detail.contains("said")), "{error:?}");
        }
        let busy = from_zbus(reply("org.flipside.Updater1.Error.Busy", "said"));
        assert!(matches!(&busy, ClientError::Refused { reason: Reason::Busy, detail } if detail == "said"), "{busy:?}");
    }
}
