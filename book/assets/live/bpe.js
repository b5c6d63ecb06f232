// Byte-pair encoding as GPT-2 has it: text to bytes, bytes to tokens by learned merges, the most frequent first.

/** GPT-2's names for the 256 bytes: printable ones are themselves, the others move beyond 255. */
const NAMES = (() => {
  const names = [], plain = (b) => (b > 32 && b < 127) || (b > 160 && b < 173) || b > 173;
  for (let b = 0, extra = 256; b < 256; b++) names.push(String.fromCodePoint(plain(b) ? b : extra++));
  return names;
})();
const BYTES = new Map(NAMES.map((name, b) => [name, b]));
const WORDS = /'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

export class Bpe {
  /** @param {{vocab: Record<string, number>, merges: [string, string][]}} learned names of tokens, and merges in order */
  constructor({ vocab, merges }) {
    this.ids = new Map(Object.entries(vocab));
    this.names = new Map([...this.ids].map(([name, id]) => [id, name]));
    this.ranks = new Map(merges.map(([a, b], rank) => [`${a} ${b}`, rank]));
  }

  /** The words of a text, each as the list of its pieces after every merge: [[["t","h","e"], ["th","e"], ...], ...] */
  history(text) {
    return (text.match(WORDS) ?? []).map((word) => {
      let pieces = [...new TextEncoder().encode(word)].map((b) => NAMES[b]);
      const seen = [pieces];
      for (;;) {
        let best = Infinity;
        for (let i = 0; i + 1 < pieces.length; i++) best = Math.min(best, this.ranks.get(`${pieces[i]} ${pieces[i + 1]}`) ?? Infinity);
        if (best === Infinity) return seen;
        const next = [];
        for (let i = 0; i < pieces.length; i++) {
          const merge = i + 1 < pieces.length && this.ranks.get(`${pieces[i]} ${pieces[i + 1]}`) === best;
          next.push(merge ? pieces[i] + pieces[++i] : pieces[i]);
        }
        seen.push(pieces = next);
      }
    });
  }

  encode(text) {
    return this.history(text).flatMap((seen) => seen.at(-1).map((piece) => this.ids.get(piece)));
  }

  decode(ids) {
    const bytes = ids.flatMap((id) => [...(this.names.get(id) ?? "")].map((c) => BYTES.get(c) ?? 63));
    return new TextDecoder().decode(Uint8Array.from(bytes));
  }
}
