//! One pass over a Jinja template that tells text from tags as minijinja does, and finds where anchors may
//! stand without being noticed: see `template`.

/// A byte offset of the template at which an anchor goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spot {
    pub(super) offset: usize,
    /// Whether a `{{` follows, not text.
    pub(super) is_expression: bool,
}

/// What one pass over a template finds.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) anchors: Vec<Spot>,
    /// Byte offset of a tag that does not end.
    pub(super) unclosed: Option<usize>,
}

impl Scan {
    pub(super) fn of(source: &str) -> Scan {
        let mut scan = Scan::default();
        let mut at = 0;
        let mut captures = 0_usize;
        while let Some(start) = find_tag(source, at) {
            scan.mark_text(source, at, start, captures);
            let Some(end) = tag_end(source, start) else {
                scan.unclosed = Some(start);
                return scan;
            };
            at = end;
            match source.as_bytes()[start + 1] {
                b'{' if captures == 0 && source.as_bytes()[start + 2] != b'-' => {
                    scan.anchors.push(Spot { offset: start, is_expression: true });
                }
                b'%' => match block_name(&source[start..end]) {
                    "raw" => {
                        let Some((raw_end, tag_end)) = find_endraw(source, end) else {
                            scan.unclosed = Some(start);
                            return scan;
                        };
                        scan.mark_text(source, end, raw_end, captures);
                        at = tag_end;
                    }
                    "filter" | "macro" | "call" => captures += 1,
                    "set" if !source[start..end].contains('=') => captures += 1,
                    "endfilter" | "endmacro" | "endcall" | "endset" => {
                        captures = captures.saturating_sub(1);
                    }
                    _ => {}
                },
                _ => {}
            }
        }
        scan.mark_text(source, at, source.len(), captures);
        scan
    }

    /// Anchors the first non-blank character of each line of a stretch of text.
    fn mark_text(&mut self, source: &str, start: usize, end: usize, captures: usize) {
        if captures > 0 {
            return;
        }
        let mut offset = start;
        for line in source[start..end].split_inclusive('\n') {
            let blank = line.len() - line.trim_start().len();
            if blank < line.len() {
                self.anchors.push(Spot { offset: offset + blank, is_expression: false });
            }
            offset += line.len();
        }
    }
}

fn find_tag(source: &str, from: usize) -> Option<usize> {
    let bytes = source.as_bytes();
    (from..bytes.len().saturating_sub(1))
        .find(|&i| bytes[i] == b'{' && matches!(bytes[i + 1], b'{' | b'%' | b'#'))
}

/// The offset behind the tag that starts at `start`; strings and brackets inside are respected, as
/// minijinja does.
fn tag_end(source: &str, start: usize) -> Option<usize> {
    let closer: &[u8] = match source.as_bytes()[start + 1] {
        b'{' => b"}}",
        b'%' => b"%}",
        _ => return source[start + 2..].find("#}").map(|i| start + 2 + i + 2),
    };
    let bytes = source.as_bytes();
    let mut open = 0_usize;
    let mut i = start + 2;
    while i < bytes.len() {
        match bytes[i] {
            _ if open == 0 && bytes[i..].starts_with(closer) => return Some(i + 2),
            quote @ (b'"' | b'\'') => i = string_end(bytes, i + 1, quote)?,
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.checked_sub(1)?,
            _ => {}
        }
        i += 1;
    }
    None
}

/// The offset of the quote that ends a string.
fn string_end(bytes: &[u8], mut i: usize, quote: u8) -> Option<usize> {
    while *bytes.get(i)? != quote {
        i += if bytes[i] == b'\\' { 2 } else { 1 };
    }
    Some(i)
}

/// `if` of `{%- if x %}`.
pub(super) fn block_name(tag: &str) -> &str {
    let inside = tag[2..].trim_start_matches(['-', '+']).trim_start();
    let end = inside.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inside.len());
    &inside[..end]
}

/// Where the text of a raw block ends, and where its end tag does.
fn find_endraw(source: &str, mut from: usize) -> Option<(usize, usize)> {
    loop {
        let start = from + source[from..].find("{%")?;
        if block_name(&source[start..]) == "endraw" {
            return Some((start, start + source[start..].find("%}")? + 2));
        }
        from = start + 2;
    }
}
