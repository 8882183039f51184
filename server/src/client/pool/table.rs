//! The documents of a pool as tables, for people.

use comfy_table::{CellAlignment, Table, presets};
use jiff::Timestamp;
use serde_json::Value;
use std::fmt::Write as _;
pub(crate) use units::human;

pub(crate) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

pub(crate) fn bytes(value: &Value) -> String {
    human(number(value))
}

/// "1 volume", "2 volumes".
fn counted(value: &Value, thing: &str) -> String {
    let end = if number(value) == 1 { "" } else { "s" };
    format!("{} {thing}{end}", number(value))
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

pub(crate) fn rows<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value[name].as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

/// Columns without lines; numbers stand to the right.
pub(crate) fn columns(titles: &[&str], right_from: usize, lines: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(titles);
    table.add_rows(lines);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if index >= right_from {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt() + "\n"
}

/// A feature's name, or where its bit is.
fn feature(value: &Value) -> String {
    let unnamed = || format!("{} bit {}", text(&value["kind"]), value["bit"]);
    value["name"].as_str().map_or_else(unnamed, str::to_owned)
}

/// Pool and volumes.
pub(crate) fn info(value: &Value) -> String {
    let name = value["name"].as_str().unwrap_or("(none)");
    let mut out = format!("pool      {}\nname      {name}\n", text(&value["uuid"]));
    let (used, free) = (bytes(&value["used_bytes"]), bytes(&value["free_bytes"]));
    let (writable, capacity) = (bytes(&value["writable_bytes"]), bytes(&value["capacity_bytes"]));
    let reserve = bytes(&value["reserve_bytes"]);
    let features: Vec<String> = rows(value, "features").map(feature).collect();
    let features = if features.is_empty() { "no features".to_owned() } else { features.join(", ") };
    // Writing to a string cannot fail.
    let _ = writeln!(out, "format    {} with {features}", value["format"]);
    let line = format!(
        "space     {used} used, {free} free, {capacity} at most\n\
         puts      {writable} writable; {reserve} are to be kept free for work under way\n\
         mblocks   {}\nio        {}\n\n",
        value["mblocks"],
        text(&value["io"])
    );
    out.push_str(&line);
    let volumes = rows(value, "volumes").map(|volume| {
        let zones = &volume["zones"];
        let zones = zones["count"]
            .as_u64()
            .map_or_else(|| "-".to_owned(), |count| format!("{}/{count}", zones["whole"]));
        let mut line: Vec<String> =
            ["id", "class", "kind", "path", "state"].map(|name| text(&volume[name])).into();
        let sizes = ["used_bytes", "free_bytes", "capacity_bytes"].map(|name| bytes(&volume[name]));
        line.extend(sizes);
        line.extend([text(&volume["mblocks"]), text(&volume["logs"]), zones]);
        line
    });
    let titles = [
        "VOLUME",
        "CLASS",
        "KIND",
        "PATH",
        "STATE",
        "USED",
        "FREE",
        "CAPACITY",
        "MBLOCKS",
        "SEGMENTS, JOURNALS",
        "FREE ZONES",
    ];
    out.push_str(&columns(&titles, 5, volumes.collect()));
    rows(value, "volumes").filter_map(extents).for_each(|line| out.push_str(&line));
    for volume in rows(value, "volumes").filter(|volume| volume["outside"] == true) {
        let (id, path) = (text(&volume["id"]), text(&volume["path"]));
        let _ = writeln!(
            out,
            "\nnote: {id} is not copied with the data directory: a copy opens {path}, too"
        );
    }
    for trouble in rows(value, "trouble") {
        let _ = writeln!(out, "\nerror: {}", text(trouble));
    }
    for job in rows(value, "evacuations") {
        out.push('\n');
        out.push_str(&evacuation(job));
    }
    out
}

/// How scattered what is free is within a volume; a missing one says nothing.
fn extents(volume: &Value) -> Option<String> {
    let free = &volume["free_extents"];
    let (count, longest) = (free["count"].as_u64()?, bytes(&free["longest_bytes"]));
    let (id, len) = (text(&volume["id"]), bytes(&volume["len_bytes"]));
    let on_disk = volume["disk_bytes"].as_u64().map(human);
    let on_disk = on_disk.map_or_else(String::new, |bytes| format!(", {bytes} of it on the disk"));
    let within = match count {
        0 => "nothing free within".to_owned(),
        1 => format!("{longest} free within, in one extent"),
        _ => format!(
            "{} free within, in {count} extents of at most {longest}",
            bytes(&free["bytes"])
        ),
    };
    let last = volume["last"]["what"].as_str().map_or_else(String::new, |what| {
        format!("; {what} lies last, up to {}", bytes(&volume["last"]["end_bytes"]))
    });
    Some(format!("\n{id} is {len} long{on_disk}; {within}{last}\n"))
}

/// A volume that is out of the pool, and what is left of it.
pub(crate) fn removed(value: &Value) -> String {
    let [id, path] = ["id", "path"].map(|name| text(&value[name]));
    match value["kind"].as_str() {
        Some("file" | "emulated-zoned") => {
            format!("removed {id}; its file {path} is left and can be deleted\n")
        }
        Some(_) => format!("removed {id}; its device {path} can be used for something else\n"),
        None => format!("removed {id}\n"),
    }
}

/// Maps.
pub(crate) fn maps(value: &Value) -> String {
    let lines = rows(value, "maps").map(|map| {
        let sizes = ["mapped_bytes", "resident_bytes"].map(|name| bytes(&map[name]));
        let [mapped, resident] = sizes;
        let count = |name: &str| text(&map[name]);
        let names = ["id", "owner", "class", "objects"].map(count);
        let counts = ["hits", "faults", "direct_reads"].map(count);
        [&names[..], &[mapped, resident], &counts].concat()
    });
    let titles = [
        "MAP",
        "OWNER",
        "CLASS",
        "OBJECTS",
        "MAPPED",
        "RESIDENT",
        "HITS",
        "FAULTS",
        "DIRECT READS",
    ];
    columns(&titles, 3, lines.collect())
}

/// A scrub.
pub(crate) fn scrub(value: &Value) -> String {
    let state = match (value["running"] == true, value["under_way"] == true) {
        (true, _) => "running",
        (false, true) => "stopped before its end; it goes on when it is started again",
        (false, false) if number(&value["passes"]) == 0 => "never run",
        (false, false) => "complete",
    };
    let mut out = format!(
        "scrub     {state}\nverified  {} of about {} in {} mblocks, segments, journals and \
         heads{}\npasses    {}{}\nfindings  {}\n",
        bytes(&value["bytes"]),
        bytes(&value["goal_bytes"]),
        value["objects"],
        if value["running"] == true {
            format!(" ({})", text(&value["stage"]))
        } else {
            String::new()
        },
        value["passes"],
        value["completed"]
            .as_u64()
            .map_or_else(String::new, |at| format!(", the last ended at {}", utc(at))),
        value["findings_total"],
    );
    for finding in rows(value, "findings") {
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(out, "  {}", text(&finding["text"]));
    }
    if let Some(refused) = value["store_refused"].as_str() {
        let _ = writeln!(out, "the store does not open: {refused}");
        let _ = writeln!(out, "    millpond pool check says what to do about it");
    }
    out
}

/// A check.
pub(crate) fn check(value: &Value) -> String {
    let mut out = String::new();
    for issue in rows(value, "issues") {
        let [severity, what, why, way_out] =
            ["severity", "what", "text", "way_out"].map(|name| text(&issue[name]));
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{severity}: {what}: {why}\n    {way_out}");
    }
    let verdict = match value["worst"].as_str() {
        None | Some("note") => "sound",
        Some("warning") => "sound, with warnings",
        _ => "DAMAGED",
    };
    let counts = ["volume", "mblock", "journal", "segment"]
        .map(|thing| counted(&value[format!("{thing}s")], thing));
    let line = format!("{verdict}: {}; {} read\n", counts.join(", "), bytes(&value["bytes"]));
    out + &line
}

/// How far emptying a volume is.
pub(crate) fn evacuation(value: &Value) -> String {
    let volume = text(&value["volume"]);
    let (moved, size) = (&value["moved"], bytes(&value["moved_bytes"]));
    let mut out = if value["running"] == true {
        format!("emptying {volume}: {} moved, {} left\n", counted(moved, "mblock"), value["left"])
    } else {
        format!("{volume}: {} ({size}) moved\n", counted(moved, "mblock"))
    };
    // Writing to a string cannot fail, here and below.
    for log in rows(value, "logs_left") {
        let _ = writeln!(out, "  {} is still there; its owner must move it", text(log));
    }
    for failed in rows(value, "failed") {
        let (id, why) = (text(&failed["mblock"]), text(&failed["why"]));
        let _ = writeln!(out, "  {id} could not be moved: {why}");
    }
    if let Some(error) = value["error"].as_str() {
        let _ = writeln!(out, "  it ended with an error: {error}");
    }
    out
}

/// Seconds since 1970 as date and time; as they are beyond the calendar's year 9999.
fn utc(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|s| Timestamp::from_second(s).ok());
    time.map_or_else(
        || format!("{seconds} s after 1970"),
        |time| time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_the_calendar_s() {
        assert_eq!(utc(951_827_696), "2000-02-29 12:34:56 UTC");
        assert_eq!(utc(u64::MAX), format!("{} s after 1970", u64::MAX));
    }
}
