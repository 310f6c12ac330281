//! Tests of `command_line`: what each part of a specification becomes. Whether QEMU takes it is
//! for the tests on a real QEMU.

use std::net::Ipv4Addr;

use vman_plugin::{ErrorCode, ImageFormat};

use super::*;

fn spec() -> MachineSpec {
    MachineSpec {
        id: Uuid::from_u128(0x1234_5678_0000_4000_8000_0000_0000_0001),
        directory: "/m/12345678-0000-4000-8000-000000000001".into(),
        cpu_count: 3,
        ram_mib: 384,
        boot: Boot::Firmware { firmware: "/b/tiny.rom".into() },
        disks: Vec::new(),
        nic: Nic::None,
    }
}

fn disk(path: &str, format: ImageFormat) -> DiskSpec {
    let (serial, bus) = ("s,1".to_owned(), vman_plugin::Bus::VirtioBlk);
    DiskSpec { id: Uuid::from_u128(7), path: path.into(), format, serial, bus }
}

fn args(spec: &MachineSpec) -> Vec<String> {
    let pid_file = spec.directory.join(PID_FILE);
    build(Accelerator::Tcg, "max", spec, &pid_file).unwrap()
}

fn values<'a>(args: &'a [String], option: &str) -> Vec<&'a str> {
    args.windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1].as_str()).collect()
}

fn refusal(spec: &MachineSpec) -> BackendError {
    build(Accelerator::Tcg, "max", spec, Path::new("/m/x/qemu.pid")).unwrap_err()
}

#[test]
fn the_fixed_part_and_the_sizes_are_as_specified() {
    let args = args(&spec());
    for (option, value) in [
        ("-uuid", "12345678-0000-4000-8000-000000000001"),
        ("-pidfile", "/m/12345678-0000-4000-8000-000000000001/qemu.pid"),
        ("-name", "guest=12345678-0000-4000-8000-000000000001,process=vman-12345678"),
        ("-machine", "q35,accel=tcg"),
        ("-cpu", "max"),
        ("-smp", "3"),
        ("-m", "384"),
        ("-bios", "/b/tiny.rom"),
        ("-qmp", "unix:qmp.sock,server=on,wait=off"),
        ("-serial", "chardev:console"),
        ("-display", "none"),
    ] {
        assert_eq!(values(&args, option), [value], "{option}");
    }
    for flag in ["-nodefaults", "-no-user-config", "-no-shutdown"] {
        assert!(args.iter().any(|arg| arg == flag), "{flag}");
    }
    assert!(!args.iter().any(|arg| arg == "-daemonize" || arg == "-netdev"));
}

#[test]
fn exactly_one_accelerator_is_named() {
    let pid_file = Path::new("/m/x/qemu.pid");
    let args = build(Accelerator::Kvm, "qemu64", &spec(), pid_file).unwrap();
    assert_eq!(values(&args, "-machine"), ["q35,accel=kvm"]);
    assert!(!args.iter().any(|arg| arg == "-accel" || arg.contains("tcg")));
}

#[test]
fn a_kernel_comes_with_its_initrd_and_its_command_line_as_one_argument() {
    let boot = Boot::Kernel {
        kernel: "/b/vmlinuz".into(),
        initrd: Some("/b/initrd".into()),
        cmdline: "console=ttyS0 -uuid x".to_owned(),
    };
    let args = args(&MachineSpec { boot, ..spec() });
    assert_eq!(values(&args, "-kernel"), ["/b/vmlinuz"]);
    assert_eq!(values(&args, "-initrd"), ["/b/initrd"]);
    assert_eq!(values(&args, "-append"), ["console=ttyS0 -uuid x"]);
}

#[test]
fn disks_keep_their_order_and_their_explicit_format_and_open_no_backing_file() {
    let disks = vec![disk("/d/a,b.qcow2", ImageFormat::Qcow2), disk("/d/c.raw", ImageFormat::Raw)];
    let args = args(&MachineSpec { boot: Boot::RootDisk, disks, ..spec() });
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let blocks: Vec<_> = values(&args, "-blockdev").into_iter().map(parse).collect();
    assert_eq!(
        blocks,
        [
            json!({
                "driver": "qcow2", "node-name": "disk0", "backing": null,
                "file": {"driver": "file", "filename": "/d/a,b.qcow2"},
            }),
            json!({
                "driver": "raw", "node-name": "disk1",
                "file": {"driver": "file", "filename": "/d/c.raw"},
            }),
        ]
    );
    let devices: Vec<_> = values(&args, "-device")
        .into_iter()
        .filter(|text| text.starts_with('{'))
        .map(parse)
        .collect();
    for (index, device) in devices.iter().enumerate() {
        assert_eq!(device["driver"], "virtio-blk-pci");
        assert_eq!(device["drive"], format!("disk{index}"));
        assert_eq!(device["bootindex"], index + 1);
        assert_eq!(device["serial"], "s,1");
    }
    assert_eq!(devices.len(), 2);
}

#[test]
fn a_user_mode_card_has_its_network_its_address_and_no_option_rom() {
    let nic = |dns| Nic::User {
        mac: "52:54:00:00:00:01".to_owned(),
        network: "10.7.0.0/24".to_owned(),
        gateway: Ipv4Addr::new(10, 7, 0, 1),
        address: Ipv4Addr::new(10, 7, 0, 9),
        dns,
    };
    let with = args(&MachineSpec { nic: nic(Some(Ipv4Addr::new(10, 7, 0, 3))), ..spec() });
    assert_eq!(
        values(&with, "-netdev"),
        ["user,id=net0,net=10.7.0.0/24,host=10.7.0.1,dhcpstart=10.7.0.9,dns=10.7.0.3,\
          ipv6=off,restrict=off"]
    );
    let device = values(&with, "-device").into_iter().find(|text| text.contains("net0")).unwrap();
    let device: serde_json::Value = serde_json::from_str(device).unwrap();
    assert_eq!(device["mac"], "52:54:00:00:00:01");
    assert_eq!(device["romfile"], "");
    let without = args(&MachineSpec { nic: nic(None), ..spec() });
    assert!(!values(&without, "-netdev")[0].contains("dns="));
}

#[test]
fn what_cannot_be_said_to_qemu_is_refused_by_name() {
    let firmware = |path: &str| Boot::Firmware { firmware: path.into() };
    let kernel = |initrd: &str| Boot::Kernel {
        kernel: "/b/k".into(),
        initrd: Some(initrd.into()),
        cmdline: String::new(),
    };
    let long = DiskSpec { serial: "x".repeat(21), ..disk("/d/a", ImageFormat::Raw) };
    let nic = Nic::User {
        mac: "52:54:00:00:00:01".to_owned(),
        network: "10.7.0.0/24,hostfwd=tcp::22-:22".to_owned(),
        gateway: Ipv4Addr::LOCALHOST,
        address: Ipv4Addr::LOCALHOST,
        dns: None,
    };
    for (spec, word) in [
        (MachineSpec { boot: firmware("tiny.rom"), ..spec() }, "not absolute"),
        (MachineSpec { boot: kernel("/b/a,b"), ..spec() }, "comma"),
        (MachineSpec { disks: vec![long], ..spec() }, "serial"),
        (MachineSpec { nic, ..spec() }, "CIDR"),
    ] {
        let error = refusal(&spec);
        assert_eq!(error.code, ErrorCode::Invalid, "{error}");
        assert!(error.message.contains(word), "{error}");
    }
}
