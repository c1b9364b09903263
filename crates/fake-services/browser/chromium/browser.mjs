// Headless Chromium before a server of the test.

import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export const packages = join(process.env.PG_CIVIC_SUPABASE_JS, 'node_modules')
export const supabaseJs = () => readFileSync(join(packages, '@supabase/supabase-js/dist/umd/supabase.js'))

/** A server on loopback. `answer` receives the request and its body, and returns [content type, content, status]. */
export async function serve(answer) {
  const server = createServer(async (request, response) => {
    const parts = []
    for await (const part of request) parts.push(part)
    const [type, content, status = 200] = await answer(request, Buffer.concat(parts).toString())
    response.writeHead(status, { 'content-type': type }).end(content)
  })
  await new Promise((done) => server.listen(0, '127.0.0.1', done))
  return { server, origin: `http://127.0.0.1:${server.address().port}` }
}

/** Opens the address, runs `watch` with what the browser has printed, and ends the browser. */
export async function inChromium(program, address, watch) {
  const profile = mkdtempSync(join(tmpdir(), 'pg_civic_chromium_'))
  const options = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run']
  const logs = ['--enable-logging=stderr', `--user-data-dir=${profile}`]
  const browser = spawn(program, [...options, ...logs, address], { detached: true })
  const exited = new Promise((done) => browser.on('exit', done))
  const kill = () => process.kill(-browser.pid, 'SIGKILL') // its helpers too
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => { kill(); process.exit(1) })
  let output = ''
  browser.stderr.on('data', (data) => {
    output = (output + data).slice(-4_000)
  })
  /** Waits; a slow machine has two minutes. */
  async function expect(condition, what, shown = () => '') {
    const deadline = Date.now() + 120_000
    while (!condition()) {
      if (Date.now() > deadline) throw new Error(`not within two minutes: ${what}\n${shown()}\n${output}`)
      await new Promise((done) => setTimeout(done, 20))
    }
  }
  try {
    await watch(expect)
  } finally {
    kill()
    await exited
    rmSync(profile, { recursive: true, maxRetries: 10, retryDelay: 100 })
  }
}
