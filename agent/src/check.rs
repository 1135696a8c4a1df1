//! `forebay-agent check`: what is wrong with a document, where, and what a good one amounts to.

use std::path::Path;

use anyhow::Context;
use crds::agent::AgentConfig;
use spool::Retention;

use crate::settings::Settings;

/// Reads and resolves a document; the error names the file and, where it can, line and column.
pub(crate) fn read(file: &Path) -> anyhow::Result<Settings> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    parse(file, &text)
}

/// As [`read`], for a text that was read from `file`.
pub(crate) fn parse(file: &Path, text: &str) -> anyhow::Result<Settings> {
    let document = AgentConfig::from_yaml(text).with_context(|| format!("{} is no agent configuration", file.display()))?;
    Settings::resolve(document).with_context(|| format!("{} contradicts itself", file.display()))
}

/// Prints what the document amounts to.
pub(crate) fn check(file: &Path) -> anyhow::Result<()> {
    let settings = read(file)?;
    print!("{}", describe(&settings));
    Ok(())
}

fn describe(settings: &Settings) -> String {
    let pipeline = &settings.pipeline;
    let mut lines = vec![
        ("buffer mode", format!("{:?}", pipeline.mode)),
        (
            "memory",
            format!("{} bytes, {} items; shed or spilled from {} %", pipeline.memory.bytes, pipeline.memory.items, pipeline.soft_percent),
        ),
        ("receive budget", format!("{} bytes for requests on their way in", settings.receive_bytes())),
    ];
    if let Some(disk) = &settings.document.buffer.disk {
        lines.push(("disk", format!("{} bytes in {}, segments of {} bytes", disk.bytes, disk.path, disk.segment_bytes)));
    }
    match settings.retention {
        Retention::Nothing => {}
        Retention::Segments(segments) => lines.push(("retention", format!("the newest {segments} segments after they were delivered"))),
        Retention::For(time) => lines.push(("retention", format!("{} s after a segment was delivered", time.as_secs()))),
    }
    if let Some(seconds) = settings.document.buffer.max_age_seconds {
        lines.push(("age limit", format!("{seconds} s, then dropped as Expired")));
    }
    if let Some(otlp) = &settings.document.sources.otlp {
        lines.push(("source otlp", format!("gRPC on {}, requests up to {} bytes", otlp.grpc_listen, otlp.request_bytes_max)));
    }
    if let Some(ebpf) = &settings.document.sources.ebpf {
        lines.push(("source ebpf", format!("{}, slots of {} s", ebpf.object, ebpf.slot_seconds)));
    }
    if let Some(tenants) = &settings.document.tenants {
        lines.push(("tenants", format!("by {}, up to {} by name", tenants.resource_attribute, tenants.max)));
    }
    for (class, policy) in vocabulary::Class::ALL.into_iter().zip(pipeline.classes) {
        lines.push(("class", format!("{class}: weight {}, {} % of memory reserved", policy.weight, policy.reserved_percent)));
    }
    for (destination, target) in pipeline.destinations.iter().zip(&settings.targets) {
        lines.push(("destination", format!("{}: {target:?}, {} requests in flight", destination.name, destination.in_flight)));
    }
    lines.into_iter().map(|(what, value)| format!("{what:<15} {value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read_text(text: &str) -> Result<Settings, String> {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        file.write_all(text.as_bytes()).expect("it can be written");
        read(file.path()).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn an_unknown_field_is_named_with_its_line() {
        let error = read_text("buffer: {mode: Memory, memoryBytes: 1, memoryItems: 1}\nsoftPercentage: 80\n").expect_err("no such field");
        assert!(error.contains("softPercentage") && error.contains("line 2"), "{error}");
    }

    #[test]
    fn a_good_document_is_described_with_every_limit() {
        let text = "buffer: {mode: Memory, memoryBytes: 1048576, memoryItems: 1000}\nsources: {otlp: {grpcListen: '127.0.0.1:0'}}\n";
        let described = describe(&read_text(text).expect("it is complete"));
        for part in ["1048576 bytes, 1000 items", "127.0.0.1:0", "Critical: weight 8", "terminal"] {
            assert!(described.contains(part), "{part} is missing in\n{described}");
        }
    }
}
