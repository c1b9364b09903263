// The code in docs/browsers.md.

import { readFileSync } from 'node:fs'

const text = readFileSync(new URL('../../../docs/browsers.md', import.meta.url), 'utf8')

/** The blocks of a language that contain the word. */
export function blocks(language, word = '') {
  const found = text.split(`\`\`\`${language}\n`).slice(1).map((rest) => rest.split('```')[0])
  return found.filter((code) => code.includes(word))
}
