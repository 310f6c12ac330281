//! The whole router over a real engine, whose records and host are in memory.
#![cfg(test)]

mod bad_input;
mod document;
mod guard;
mod harness;
mod lifecycle;
mod reading;
mod repeats;
mod serving;
mod verbs;
