// The code in the documents for browsers.

import { readFileSync } from 'node:fs'

const texts = ['browsers.md', 'sql-api.md'].map((name) => readFileSync(new URL(`../../../docs/${name}`, import.meta.url), 'utf8'))

/** The blocks of a language that contain the word. */
export function blocks(language, word = '') {
  const rests = texts.flatMap((text) => text.split(`\`\`\`${language}\n`).slice(1))
  return rests.map((rest) => rest.split('```')[0]).filter((code) => code.includes(word))
}
