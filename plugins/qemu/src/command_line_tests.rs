//! Tests of `command_line`: what each part of a specification becomes. Whether QEMU takes it is
//! for the tests on a real QEMU.

use std::net::Ipv4Addr;

use vman_plugin::{ErrorCode, ImageFormat};

use crate::devices::disk_name;

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

fn disk(number: u128, path: &str, format: ImageFormat, bus: Bus) -> DiskSpec {
    DiskSpec { id: Uuid::from_u128(number), path: path.into(), format, serial: "s,1".into(), bus }
}

fn args(spec: &MachineSpec) -> Vec<String> {
    let pid_file = spec.directory.join(PID_FILE);
    build(Accelerator::Tcg, "max", spec, &pid_file, 1).unwrap()
}

fn values<'a>(args: &'a [String], option: &str) -> Vec<&'a str> {
    args.windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1].as_str()).collect()
}

fn refusal(spec: &MachineSpec) -> BackendError {
    build(Accelerator::Tcg, "max", spec, Path::new("/m/x/qemu.pid"), 1).unwrap_err()
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
    let args = build(Accelerator::Kvm, "qemu64", &spec(), pid_file, 1).unwrap();
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

fn parsed(args: &[String], option: &str) -> Vec<serde_json::Value> {
    let values = values(args, option).into_iter().filter(|text| text.starts_with('{'));
    values.map(|text| serde_json::from_str(text).unwrap()).collect()
}

#[test]
fn disks_keep_their_order_and_their_explicit_format_and_open_no_backing_file() {
    let disks = vec![
        disk(7, "/d/a,b.qcow2", ImageFormat::Qcow2, Bus::VirtioScsi),
        disk(8, "/d/c.raw", ImageFormat::Raw, Bus::VirtioBlk),
        disk(9, "/d/e.raw", ImageFormat::Raw, Bus::VirtioScsi),
    ];
    let names: Vec<_> = disks.iter().map(|disk| disk_name(disk.id)).collect();
    let args = args(&MachineSpec { boot: Boot::RootDisk, disks, ..spec() });
    let blocks = parsed(&args, "-blockdev");
    assert_eq!(
        blocks[..2],
        [
            json!({
                "driver": "qcow2", "node-name": names[0], "backing": null,
                "file": {"driver": "file", "filename": "/d/a,b.qcow2"},
            }),
            json!({
                "driver": "raw", "node-name": names[1],
                "file": {"driver": "file", "filename": "/d/c.raw"},
            }),
        ]
    );
    assert!(values(&args, "-device").contains(&"virtio-scsi-pci,id=scsi0"));
    let devices = parsed(&args, "-device");
    let device = |id: &str| devices.iter().find(|device| device["id"] == id).unwrap().clone();
    let scsi = |id: &str, target: usize, bootindex: usize| {
        json!({
            "driver": "scsi-hd", "id": id, "drive": id, "bus": "scsi0.0", "scsi-id": target,
            "serial": "s,1", "device_id": "s,1", "bootindex": bootindex,
        })
    };
    assert_eq!(device(&names[0]), scsi(&names[0], 0, 1));
    assert_eq!(
        device(&names[1]),
        json!({
            "driver": "virtio-blk-pci", "id": names[1], "drive": names[1], "bus": "port0",
            "serial": "s,1", "bootindex": 2,
        })
    );
    assert_eq!(device(&names[2]), scsi(&names[2], 1, 3));
}

#[test]
fn each_virtio_blk_disk_has_a_port_but_for_the_one_booted_from_and_some_are_free() {
    let blk = |number| disk(number, "/d/x", ImageFormat::Raw, Bus::VirtioBlk);
    let disks = vec![blk(7), blk(8)];
    let ports = |boot| {
        let args = args(&MachineSpec { boot, disks: disks.clone(), ..spec() });
        let devices = parsed(&args, "-device");
        let of = |driver: &str, key: &str| -> Vec<serde_json::Value> {
            let ours = devices.iter().filter(|device| device["driver"] == driver);
            ours.map(|device| device[key].clone()).collect()
        };
        (of("pcie-root-port", "id"), of("virtio-blk-pci", "bus"))
    };
    let booted = ports(Boot::RootDisk);
    assert_eq!(booted, (vec![json!("port0"), json!("port1")], vec![json!(null), json!("port0")]));
    let beside = ports(spec().boot);
    assert_eq!(beside.0, ["port0", "port1", "port2"]);
    assert_eq!(beside.1, ["port0", "port1"]);
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
    let plain = disk(7, "/d/a", ImageFormat::Raw, Bus::VirtioScsi);
    let long = DiskSpec { serial: "x".repeat(21), ..plain };
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
