//! What a helper does: opens one plugin file, makes one instance, hands on what the host asks and
//! what the plugin says, and ends when its host does. The machines are not its business.

use std::io::{self, BufReader};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use super::Hello;
use super::frame::{self, Frame, Kind};
use crate::host::fault::{Fault, Function, Inside};
use crate::host::link::{Callbacks, Number};
use crate::host::registry::{self, Loaded};
use crate::host::trust::Pin;
use crate::host::worker::{Order, carry_out, create};

/// How often it is looked whether the plugin returns.
const HANG_CHECK: Duration = Duration::from_secs(1);
/// The exit status of a helper whose plugin does not return: EX_SOFTWARE, sysexits(3).
const HUNG_STATUS: i32 = 70;

/// Runs the plugin of `file` for the host at the other end of the socket that is this process's
/// standard input, until the host has ended. For the program that a
/// [`Helper`](super::Helper) names.
///
/// # Errors
/// The socket is none, or broke. That the plugin cannot be loaded is told to the host alone.
pub fn serve_plugin(file: &Path, pin: Option<&Pin>) -> io::Result<()> {
    let mut to_host = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    give_up_stdin()?;
    let mut from_host = BufReader::new(to_host.try_clone()?);
    let Loaded { functions, manifest } = match registry::load(file, pin) {
        Ok(loaded) => loaded,
        Err(error) => {
            return frame::write(&mut to_host, Kind::NotLoaded, 0, 0, error.to_string().as_bytes());
        }
    };
    let hello = serde_json::to_vec(&Hello { abi_minor: functions.minor, manifest })?;
    frame::write(&mut to_host, Kind::Loaded, 0, 0, &hello)?;

    let Some(first) = frame::read(&mut from_host)? else { return Ok(()) };
    let link = Link::new(to_host);
    link.watch()?;
    let instance = match create(functions, link.number.get(), &link.inside, &first.payload) {
        Ok(instance) => instance,
        Err(error) => {
            let json = serde_json::to_vec(&error)?;
            link.send(Kind::NotCreated, 0, 0, &json);
            return Ok(());
        }
    };
    link.send(Kind::Created, 0, 0, &[]);
    while let Some(order) = next_order(&mut from_host) {
        carry_out(&instance, &link.inside, &order, |op, status| {
            link.send(Kind::Refused, op, status, &[]);
        });
    }
    let _inside = link.inside.enter(Function::Destroy);
    drop(instance);
    Ok(())
}

/// What the plugin starts must not get at the socket.
fn give_up_stdin() -> io::Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(rustix::stdio::dup2_stdin(&null)?)
}

/// `None` when the host has ended; one that cannot be understood has, too.
fn next_order(from_host: &mut BufReader<UnixStream>) -> Option<Order> {
    let Frame { kind, number: op, payload: request, .. } = frame::read(from_host).ok()??;
    match kind {
        Kind::Submit => Some(Order::Submit { op, request }),
        Kind::Cancel => Some(Order::Cancel { op }),
        Kind::Loaded
        | Kind::NotLoaded
        | Kind::Create
        | Kind::Created
        | Kind::NotCreated
        | Kind::Refused
        | Kind::Complete
        | Kind::CompleteTooLong
        | Kind::Event
        | Kind::Log
        | Kind::Hung => None,
    }
}

/// The way back to the host. Where it is gone, what is said is lost, and the process ends soon.
struct Link {
    number: Number,
    inside: Inside,
    to_host: Mutex<UnixStream>,
}

impl Link {
    fn new(to_host: UnixStream) -> Arc<Self> {
        Arc::new_cyclic(|weak: &Weak<Self>| Self {
            number: Number::give(weak.clone()),
            inside: Inside::default(),
            to_host: Mutex::new(to_host),
        })
    }

    fn send(&self, kind: Kind, number: u64, status: i32, payload: &[u8]) {
        let mut to_host = self.to_host.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = frame::write(&mut *to_host, kind, number, status, payload);
    }

    /// Ends the process when the plugin does not return: only the host could do so otherwise, and
    /// it may be gone.
    fn watch(self: &Arc<Self>) -> io::Result<()> {
        let link = Arc::clone(self);
        let watch = move || loop {
            std::thread::sleep(HANG_CHECK);
            if let Some(Fault::Hung(why)) = link.inside.overdue() {
                link.send(Kind::Hung, 0, 0, why.as_bytes());
                std::process::exit(HUNG_STATUS);
            }
        };
        std::thread::Builder::new().name("watch".to_owned()).spawn(watch).map(drop)
    }
}

impl Callbacks for Link {
    fn complete(&self, op: u64, status: i32, json: Option<&[u8]>) {
        match json {
            Some(json) => self.send(Kind::Complete, op, status, json),
            None => self.send(Kind::CompleteTooLong, op, status, &[]),
        }
    }

    fn event(&self, json: Option<&[u8]>) {
        self.send(Kind::Event, 0, 0, json.unwrap_or_default());
    }

    fn log(&self, level: u32, json: Option<&[u8]>) {
        self.send(Kind::Log, 0, level.cast_signed(), json.unwrap_or_default());
    }
}
