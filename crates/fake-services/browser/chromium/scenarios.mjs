// Every scenario but those of the documentation, in a real browser:  node scenarios.mjs CHROMIUM
// Each runs in a page of its own, with the browser's own timers, events, locks and responses.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { MODULE } from '../runtime.mjs'
import { inChromium, serve, supabaseJs } from './browser.mjs'

const FILES = ['fake', 'hour', 'joining', 'leaving', 'list', 'reads', 'sessions']
const SCRIPTS = new URL('../', import.meta.url)

const scenarios = []
for (const file of FILES) {
  for (const name of Object.keys(await import(`../scenarios/${file}.mjs`))) scenarios.push({ file, name })
}

const page = ({ file, name }, next) => `<!doctype html>
<script type="importmap">
  { "imports": { "node:assert/strict": "/chromium/assert.mjs", "/runtime.mjs": "/chromium/runtime.mjs" } }
</script>
<script src="/supabase.js"></script>
<script type="module">
  const { fetch } = window
  const report = async (outcome) => {
    await fetch('/outcome/${name}', { method: 'POST', body: outcome })
    location = '${next}'
  }
  addEventListener('unhandledrejection', ({ reason }) => report(String(reason?.stack ?? reason)))
  import('/scenarios/${file}.mjs')
    .then((scenarios) => scenarios.${name}())
    .then(() => report('passed'), (error) => report(String(error.stack ?? error)))
</script>`

const outcomes = new Map()
const { origin } = await serve(({ url }, body) => {
  const [, kind, name] = url.split('/')
  if (kind === 'run') {
    const place = scenarios.findIndex((scenario) => scenario.name === name)
    if (place < 0) return ['text/html', 'the end']
    return ['text/html', page(scenarios[place], `/run/${scenarios[place + 1]?.name}`)]
  }
  if (kind === 'outcome') {
    outcomes.set(name, body)
    return ['text/plain', '']
  }
  if (url === '/supabase.js') return ['text/javascript', supabaseJs()]
  if (url === '/ticket-updates.js') return ['text/javascript', readFileSync(MODULE)]
  if (!/^\/[a-z/-]+\.mjs$/.test(url)) return ['text/plain', '', 404]
  return ['text/javascript', readFileSync(new URL(`.${url}`, SCRIPTS))]
})

await inChromium(process.argv[2], `${origin}/run/${scenarios[0].name}`, async (expect) => {
  for (const { name } of scenarios) await expect(() => outcomes.has(name), name)
})
const failed = [...outcomes].filter(([, outcome]) => outcome !== 'passed').map(([name, outcome]) => `${name}: ${outcome}`)
assert.deepEqual(failed, [])
process.exit(0)
