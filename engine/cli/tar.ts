// A tar archive of texts (POSIX ustar), in memory.

export type TarFile = { readonly name: string; readonly content: string };

const blockBytes = 512;

export function tarArchive(files: readonly TarFile[], time: Date): Buffer {
  const parts: Buffer[] = [];
  for (const { name, content } of files) {
    const bytes = Buffer.from(content);
    parts.push(
      header(name, bytes.length, time),
      bytes,
      Buffer.alloc((blockBytes - (bytes.length % blockBytes)) % blockBytes),
    );
  }
  return Buffer.concat([...parts, Buffer.alloc(2 * blockBytes)]);
}

function header(name: string, size: number, time: Date): Buffer {
  const block = Buffer.alloc(blockBytes);
  const octal = (value: number, width: number) => value.toString(8).padStart(width - 1, '0') + '\0';
  // 100 bytes of name, 155 of a folder before it.
  const cut = name.length <= 100 ? 0 : name.indexOf('/', name.length - 101) + 1;
  block.write(name.slice(cut), 0);
  block.write('0000600\0', 100);
  block.write(octal(0, 8), 108);
  block.write(octal(0, 8), 116);
  block.write(octal(size, 12), 124);
  block.write(octal(Math.floor(time.getTime() / 1_000), 12), 136);
  block.write('        ', 148);
  block.write('0', 156);
  block.write('ustar\u000000', 257);
  if (cut > 0) block.write(name.slice(0, cut - 1), 345);
  block.write(
    octal(
      block.reduce((sum, byte) => sum + byte, 0),
      7,
    ) + ' ',
    148,
  );
  return block;
}
