// @ts-check
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { test } from 'node:test'
import { baileysLogger, mask } from '../../whatsapp/engine/node/log.js'

const engine = new URL('../../whatsapp/engine/node/', import.meta.url)

test('nothing that a library prints is seen', () => {
  const script = `
    import '${new URL('runtime.js', engine)}'
    const { default: libsignal } = await import('${new URL('node_modules/libsignal/index.js', engine)}')
    const { SessionRecord } = libsignal
    const record = new SessionRecord()
    record.openSession({ indexInfo: { closed: 1 }, secret: 'private key' })
    for (const say of ['log', 'info', 'warn', 'error', 'debug', 'trace', 'dir', 'table']) console[say]('secret')
  `
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script])
  assert.equal(`${stdout}${stderr}`, '')
  assert.equal(status, 0)
})

test('phones, keys and codes are masked', () => {
  assert.equal(mask('79990000001@s.whatsapp.net'), '***@s.whatsapp.net')
  assert.equal(mask(`key ${Buffer.alloc(32, 7).toString('base64')}`), 'key ***')
  assert.equal(mask('Connection Failure'), 'Connection Failure')
})

test("Baileys' logger drops objects", t => {
  const lines = t.mock.method(process.stderr, 'write', () => true).mock
  const logger = baileysLogger('company_1#1')
  for (const level of /** @type {const} */ (['trace', 'debug', 'info', 'warn', 'error'])) {
    logger.child({ creds: 'secret' })[level]({ creds: 'secret' }, 'a sentence about 79990000001')
  }
  assert.deepEqual(
    lines.calls.map(call => call.arguments[0]),
    ['DEBUG company_1#1: Baileys: a sentence about ***\n'],
  )
})
