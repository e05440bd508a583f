// @ts-check
/**
 * Starts the simulator: `node main.js [--port N] [--control-port M]`. Prints its two
 * addresses as one line of JSON, and exits when its stdin ends, so that it never
 * outlives whoever started it.
 */
import { parseArgs } from 'node:util'
import { createControl } from './control.js'
import { Server } from './server.js'

// libsignal writes session records through these; stdout is for the addresses only.
console.info = console.warn = console.log = () => {}

const { values } = parseArgs({
  options: {
    port: { type: 'string', default: '0' },
    'control-port': { type: 'string', default: '0' },
  },
})

const server = new Server()
const control = createControl(server)
await server.listen(Number(values.port))
await new Promise((resolve, reject) => {
  control.once('error', reject)
  control.listen(Number(values['control-port']), '127.0.0.1', () => resolve(undefined))
})
const { port } = /** @type {import('node:net').AddressInfo} */ (control.address())
process.stdout.write(`${JSON.stringify({ ws: server.url, control: `http://127.0.0.1:${port}` })}\n`)

const exit = () => process.exit(0)
process.stdin.on('end', exit).on('error', exit).resume()
process.on('SIGTERM', exit)
process.on('SIGINT', exit)
