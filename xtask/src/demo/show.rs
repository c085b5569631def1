//! What the demonstration prints.

use super::{BLUE, GREEN, VNI};
use crate::ui;

/// The lab as a picture.
pub(crate) fn topology() {
    let name = |text: &str| ui::bold(text);
    let (blue, green) = (name("blue "), name("green"));
    let (h1, h2) = (name("host h1"), name("host h2"));
    println!();
    println!("  ┌──────────── {h1} ────────────┐                     ┌──────────── {h2} ────────────┐");
    println!(
        "  │  container {blue}                │  network demo       │  container {green}                │"
    );
    println!("  │  {:<31}│  VNI {VNI:<15}│  {:<31}│", BLUE[0], GREEN[0]);
    println!("  │  {:<31}│                     │  {:<31}│", BLUE[1], GREEN[1]);
    println!("  │         │ veth, eBPF            │                     │         │ veth, eBPF            │");
    println!("  │  fabric-agent     u0 10.0.1.1 ──┼──── VXLAN, IPv4 ────┼── 10.0.2.1 u0     fabric-agent  │");
    println!("  └─────────────────────────────────┘   router 10.0.N.254 └─────────────────────────────────┘");
    println!();
}

/// Results: what, how, how much.
#[derive(Default)]
pub(crate) struct Table(Vec<[String; 3]>);

impl Table {
    pub(crate) fn row(&mut self, what: &str, result: &str, detail: &str) {
        self.0.push([what.to_owned(), result.to_owned(), detail.to_owned()]);
    }

    pub(crate) fn print(&self) {
        let width = |column: usize| self.0.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let (a, b, c) = (width(0), width(1), width(2));
        let rule = |left: &str, middle: &str, right: &str| {
            let bar = |n: usize| "─".repeat(n + 2);
            println!("  {left}{}{middle}{}{middle}{}{right}", bar(a), bar(b), bar(c));
        };
        rule("┌", "┬", "┐");
        for [what, result, detail] in &self.0 {
            println!("  │ {what:<a$} │ {result:<b$} │ {detail:<c$} │");
        }
        rule("└", "┴", "┘");
    }
}

/// Where to look next.
pub(crate) fn next_steps() {
    println!("\nWhere to look next:");
    for (line, about) in [
        ("cargo xtask run --keep", "the same, and it stays up"),
        ("cargo xtask lab up --hosts 3", "a lab of your own"),
        ("cargo xtask lab exec h1 -- fabric status", "a node's health"),
        ("cargo xtask lab exec h1 -- fabric monitor --drops", "what is refused, and why"),
        ("cargo xtask test", "every test"),
        ("README.md, ARCHITECTURE.md, docs/generated/", "how it works; every map and every drop reason"),
    ] {
        println!("  {line:<52} {}", ui::dim(about));
    }
}
