//! The library against a real QEMU and a real `qemu-img`. On a host without them these tests fail
//! and say what to install.
#![cfg(test)]

mod confined;
mod control;
mod ends;
mod host;
mod hot_plug;
mod images;
mod machines;
mod trouble;
