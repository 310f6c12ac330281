//! What a policy may use up. Every bound on a component is here and nowhere else; how each is
//! enforced is in the module that names it.

use std::time::Duration;

/// Bytes of a component file.
pub const COMPONENT_SIZE_MAX: u64 = 10 << 20;
/// Bytes of a policy's configuration as JSON text.
pub const CONFIG_LENGTH_MAX: usize = 64 << 10;

/// Units of fuel for one call, its instantiation included. A unit is about one instruction.
pub const FUEL_MAX: u64 = 10_000_000;
/// Wall-clock time for one call, its instantiation included. Fuel runs out first unless the host is
/// overloaded or the guest spends its time in calls that cost little fuel.
pub const DEADLINE: Duration = Duration::from_millis(50);
/// How often running calls are held against [`DEADLINE`].
pub const TICK: Duration = Duration::from_millis(1);

/// Bytes of linear memory of one instance, all its memories together.
pub const MEMORY_MAX: usize = 16 << 20;
/// Elements of all tables of one instance together.
pub const TABLE_ELEMENTS_MAX: usize = 20_000;
/// Linear memories of one component.
pub const MEMORIES_MAX: u32 = 4;
/// Tables of one component.
pub const TABLES_MAX: u32 = 8;
/// Core instances of one component.
pub const CORE_INSTANCES_MAX: u32 = 16;
/// Bytes that are copied from the guest for one call in either direction.
pub const COPIED_BYTES_MAX: usize = 64 << 10;
/// Bytes of stack for the guest's code.
pub const GUEST_STACK_SIZE: usize = 256 << 10;
/// Frames of a trap's backtrace.
pub const TRACE_FRAMES_MAX: usize = 32;
/// Bytes of a failure's trace that are kept.
pub const TRACE_LENGTH_MAX: usize = 8 << 10;
/// Bytes of a failure's message that are kept.
pub const FAILURE_LENGTH_MAX: usize = 1 << 10;

/// Lines of the guest's log that are kept of one call.
pub const LOG_LINES_MAX: usize = 64;
/// Bytes of one line of the guest's log that are kept.
pub const LOG_LINE_LENGTH_MAX: usize = 1 << 10;
/// Earlier repairs that a policy is told of, the newest; more than any shipped policy counts.
pub const ATTEMPTS_MAX: usize = 1024;

/// Threads that run guests, at the most; fewer where there are fewer processors.
pub const WORKERS_MAX: usize = 4;
/// Bytes of stack of such a thread: the guest's, and ample room for the host's own calls.
pub const WORKER_STACK_SIZE: usize = 2 << 20;
/// Cases that may wait for a thread; whoever brings one more waits until there is room.
pub const QUEUE_LENGTH_MAX: usize = 64;
