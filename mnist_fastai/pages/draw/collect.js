// Drawings with their labels as a folder, `<class>/<number>.png`, in a ZIP archive that is stored, not compressed
// (PKWARE's APPNOTE 6.3.3, sections 4.3.7, 4.3.12 and 4.3.16).

/** @param {Uint8Array} bytes */
function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let k = 0; k < 8; k++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

/** Numbers, little-endian: [value, bytes] each. @param {number[][]} fields */
const pack = fields => Uint8Array.from(fields.flatMap(([value, n]) => Array.from({ length: n }, (_, k) => value / 2 ** (8 * k) & 255)));

/** @param {{name: string, bytes: Uint8Array<ArrayBuffer>}[]} files @returns {Blob} */
export function zip(files) {
  const body = [], directory = [];
  let offset = 0, length = 0;
  for (const { name, bytes } of files) {
    const path = new TextEncoder().encode(name), size = bytes.length;
    // version 2.0, UTF-8 names, stored, 1 January 1980
    const common = [[20, 2], [0x800, 2], [0, 2], [0, 2], [0x21, 2], [crc32(bytes), 4], [size, 4], [size, 4], [path.length, 2], [0, 2]];
    const local = pack([[0x04034b50, 4], ...common]);
    const entry = pack([[0x02014b50, 4], [20, 2], ...common, [0, 2], [0, 2], [0, 2], [0, 4], [offset, 4]]);
    body.push(local, path, bytes);
    directory.push(entry, path);
    offset += local.length + path.length + size;
    length += entry.length + path.length;
  }
  const end = pack([[0x06054b50, 4], [0, 4], [files.length, 2], [files.length, 2], [length, 4], [offset, 4], [0, 2]]);
  return new Blob([...body, ...directory, end], { type: "application/zip" });
}

/** The classes' names as those of folders on any system, no two the same. @param {string[]} classes */
export function folders(classes) {
  const taken = new Set();  // in small letters, which some systems do not tell from capital ones
  return classes.map((name, label) => {
    let folder = name.replace(/[^\p{L}\p{N} _+-]/gu, "-").trim() || "-";
    while (taken.has(folder.toLowerCase())) folder += `-${label}`;
    taken.add(folder.toLowerCase());
    return folder;
  });
}
