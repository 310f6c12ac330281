//! Whether this host's KVM runs guests: one virtual processor in long mode runs what every kernel
//! does on its first page, loading nothing from disk and lasting about a millisecond. QEMU takes no
//! part in it.
//!
//! That `/dev/kvm` opens and answers tells nothing: a KVM without hardware behind it (PVM) offers
//! the same and then emulates, and stops at instructions it does not know. This code tells the two
//! apart by a breakpoint exception and the return from it (`int3`, `iretq`), which such a KVM
//! cannot do: it prints `A`, a real one prints `AIB` and halts.
#![allow(unsafe_code, reason = "KVM is given memory by its address")]

use std::path::Path;
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, kvm_dtable, kvm_regs, kvm_segment, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use procfs::{CpuInfo, Current};

/// A KVM that needs longer for a dozen instructions runs no guest either.
const TIME_MAX: Duration = Duration::from_secs(1);
/// Exits of the processor that are looked at; a good run has four.
const EXITS_MAX: usize = 16;

const PAGE: usize = 4096;
/// One 2 MiB page of guest memory.
const MEMORY_PAGES: usize = 512;

const PML4: usize = 0x1000;
const PDPT: usize = 0x2000;
const PD: usize = 0x3000;
const GDT: usize = 0x4000;
const TSS: usize = 0x5000;
const IDT: usize = 0x6000;
const CODE: usize = 0x8000;
const BREAKPOINT_HANDLER: usize = 0x8800;
const FAULT_HANDLER: usize = 0x8900;
const STACK: usize = 0x9000;
/// Where KVM on Intel keeps its own task state, out of the guest's way (KVM API, 4.35).
const KVM_TSS: usize = 0xfffb_d000;

const PRESENT_WRITABLE: u64 = 0b11;
const LARGE_PAGE: u64 = 1 << 7;
/// Vector 3 (Intel SDM volume 3, 6.3.1).
const BREAKPOINT: usize = 3;
const VECTORS: usize = 256;

/// `mov al, letter; out 0xf1, al`
const fn say(letter: u8) -> [u8; 4] {
    [0xb0, letter, 0xe6, 0xf1]
}

const INT3: u8 = 0xcc;
const HLT: u8 = 0xf4;
const IRETQ: [u8; 2] = [0x48, 0xcf];

/// What a KVM that runs guests makes of it.
const EXPECTED: &str = "AIB";
const HALTED: &str = "halted";

/// The error says what was seen instead, and what may be behind it. Tried once and remembered: the
/// first call blocks, for [`TIME_MAX`] at the most; a processor that does not come back is left to
/// its thread.
pub(crate) fn runs_guests() -> Result<(), &'static str> {
    static VERDICT: OnceLock<Result<(), String>> = OnceLock::new();
    let verdict =
        VERDICT.get_or_init(|| verdict().map_err(|seen| format!("{seen}{}", likely_cause())));
    verdict.as_ref().copied().map_err(String::as_str)
}

fn verdict() -> Result<(), String> {
    let (tell, told) = mpsc::sync_channel(1);
    let run = move || {
        // Nobody listens only after the time is over.
        let _ = tell.send(run().map_err(|error| format!("KVM cannot be used: {error}")));
    };
    std::thread::Builder::new()
        .name("kvm-probe".to_owned())
        .spawn(run)
        .map_err(|error| format!("no thread to try KVM on: {error}"))?;
    let seen = told
        .recv_timeout(TIME_MAX)
        .map_err(|_| format!("KVM did not run a dozen instructions within {TIME_MAX:?}"))??;
    if seen.said == EXPECTED && seen.end == HALTED {
        return Ok(());
    }
    Err(format!(
        "KVM runs no ordinary guest: a test of a dozen instructions said {:?} instead of \
         {EXPECTED:?}, and ended: {}",
        seen.said, seen.end
    ))
}

/// What the host shows beside the failure, for people.
fn likely_cause() -> &'static str {
    let info = CpuInfo::current().ok();
    let flags = info.as_ref().and_then(|info| info.flags(0)).unwrap_or_default();
    if Path::new("/sys/module/kvm_pvm").exists() {
        "; this KVM is PVM, which emulates guests that are not made for it"
    } else if flags.iter().any(|flag| matches!(*flag, "vmx" | "svm")) {
        ""
    } else {
        "; the processor offers no virtualisation (neither vmx nor svm in /proc/cpuinfo): enable \
         it in the firmware, or in the outer hypervisor"
    }
}

/// What the test's guest did.
struct Seen {
    said: String,
    end: String,
}

#[repr(align(4096))]
#[derive(Clone)]
struct Page([u8; PAGE]);

/// Guest memory from address 0, page by page, as KVM wants it.
struct Memory(Box<[Page]>);

impl Memory {
    fn new() -> Self {
        let mut memory = Self(vec![Page([0; PAGE]); MEMORY_PAGES].into_boxed_slice());
        memory.put_tables();
        memory.put(CODE, &[&say(b'A')[..], &[INT3], &say(b'B'), &[HLT]].concat());
        memory.put(BREAKPOINT_HANDLER, &[&say(b'I')[..], &IRETQ].concat());
        memory.put(FAULT_HANDLER, &[&say(b'F')[..], &[HLT]].concat());
        memory
    }

    /// `bytes` must lie within one page.
    fn put(&mut self, address: usize, bytes: &[u8]) {
        let within = address % PAGE;
        self.0[address / PAGE].0[within..within + bytes.len()].copy_from_slice(bytes);
    }

    fn put_u64(&mut self, address: usize, value: u64) {
        self.put(address, &value.to_le_bytes());
    }

    /// Identity mapping, flat segments, and a gate for every vector.
    fn put_tables(&mut self) {
        self.put_u64(PML4, PDPT as u64 | PRESENT_WRITABLE);
        self.put_u64(PDPT, PD as u64 | PRESENT_WRITABLE);
        self.put_u64(PD, LARGE_PAGE | PRESENT_WRITABLE);
        self.put_u64(GDT + 8, 0x00af_9b00_0000_ffff);
        self.put_u64(GDT + 16, 0x00cf_9300_0000_ffff);
        self.put_u64(GDT + 24, 0x0000_8900_0000_0067 | ((TSS as u64) << 16));
        self.put_u64(TSS + 4, STACK as u64);
        for vector in 0..VECTORS {
            let handler = if vector == BREAKPOINT { BREAKPOINT_HANDLER } else { FAULT_HANDLER };
            // A present 64-bit interrupt gate to selector 8 (SDM volume 3, figure 6-8); every
            // handler lies below 64 KiB, so the higher parts of its address are 0.
            self.put_u64(IDT + 16 * vector, handler as u64 | (8 << 16) | (0x8e << 40));
        }
    }
}

fn run() -> Result<Seen, kvm_ioctls::Error> {
    // Before the machine, so that it is there for longer.
    let mut memory = Memory::new();
    let kvm = Kvm::new()?;
    let vm = kvm.create_vm()?;
    vm.set_tss_address(KVM_TSS)?;
    give(&vm, &mut memory)?;
    let mut processor = vm.create_vcpu(0)?;
    processor.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?)?;
    enter_long_mode(&processor)?;
    let mut said = String::new();
    for _ in 0..EXITS_MAX {
        #[expect(clippy::wildcard_enum_match_arm, reason = "not ours; any other end is only shown")]
        let end = match processor.run()? {
            VcpuExit::IoOut(_, [letter]) => {
                said.push(char::from(*letter));
                continue;
            }
            VcpuExit::Hlt => HALTED.to_owned(),
            other => format!("{other:?}"),
        };
        return Ok(Seen { said, end });
    }
    Ok(Seen { said, end: format!("still running after {EXITS_MAX} exits") })
}

fn give(vm: &VmFd, memory: &mut Memory) -> Result<(), kvm_ioctls::Error> {
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: (MEMORY_PAGES * PAGE) as u64,
        userspace_addr: memory.0.as_mut_ptr() as u64,
    };
    // SAFETY: the region is page-aligned, of the size told, and may be written to; Rust neither
    // reads nor writes it from here on; and it outlives the machine: `run` declares it first, and
    // so drops it last.
    unsafe { vm.set_user_memory_region(region) }
}

fn enter_long_mode(processor: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let mut special = processor.get_sregs()?;
    // Paging and protection on, physical address extension, long mode enabled and active.
    special.cr0 = 0x8005_0033;
    special.cr4 = 0x20;
    special.cr3 = PML4 as u64;
    special.efer = 0x500;
    let flat = kvm_segment { limit: u32::MAX, present: 1, s: 1, g: 1, ..Default::default() };
    special.cs = kvm_segment { selector: 8, type_: 11, l: 1, ..flat };
    let data = kvm_segment { selector: 16, type_: 3, db: 1, ..flat };
    special.ds = data;
    special.es = data;
    special.fs = data;
    special.gs = data;
    special.ss = data;
    let base = TSS as u64;
    special.tr = kvm_segment {
        base,
        limit: 0x67,
        selector: 24,
        type_: 11,
        present: 1,
        ..Default::default()
    };
    special.gdt = kvm_dtable { base: GDT as u64, limit: 39, ..Default::default() };
    special.idt = kvm_dtable { base: IDT as u64, limit: 16 * 256 - 1, ..Default::default() };
    processor.set_sregs(&special)?;
    let registers =
        kvm_regs { rip: CODE as u64, rsp: STACK as u64, rflags: 2, ..Default::default() };
    processor.set_regs(&registers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_is_what_the_test_guest_came_to() {
        let verdict = verdict();
        match run() {
            Ok(seen) => assert_eq!(verdict.is_ok(), seen.said == EXPECTED, "{verdict:?}"),
            Err(error) => assert!(verdict.unwrap_err().contains(&error.to_string())),
        }
    }

    #[test]
    fn the_guest_has_a_gate_for_every_vector_and_its_code_where_it_begins() {
        let memory = Memory::new();
        let byte = |address: usize| memory.0[address / PAGE].0[address % PAGE];
        assert_eq!([byte(CODE), byte(CODE + 1), byte(CODE + 4)], [0xb0, b'A', INT3]);
        for vector in 0..VECTORS {
            let gate = IDT + 16 * vector;
            let expected = if vector == BREAKPOINT { BREAKPOINT_HANDLER } else { FAULT_HANDLER };
            let handler = usize::from(u16::from_le_bytes([byte(gate), byte(gate + 1)]));
            assert_eq!((handler, byte(gate + 5)), (expected, 0x8e), "vector {vector}");
        }
    }
}
