// Runs import_all.py in CPython 3.10, compiled to WebAssembly (the package pyodide 0.22).
// Arguments: the folder of the package, the checkout, site-packages with a protobuf.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

const [packageFolder, checkout, sitePackages] = process.argv.slice(2);
const { loadPyodide } = createRequire(import.meta.url)(packageFolder);
const python = await loadPyodide({ stdout: (text) => process.stdout.write(`${text}\n`) });
for (const [name, folder] of Object.entries({ checkout, sitePackages })) {
  python.FS.mkdir(`/${name}`);
  python.FS.mount(python.FS.filesystems.NODEFS, { root: folder }, `/${name}`);
}
python.runPython(`
import os, sys
os.environ["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"] = "python"
sys.dont_write_bytecode = True
sys.path.append("/sitePackages")
`);
python.runPython(readFileSync(new URL('import_all.py', import.meta.url), 'utf8'));
python.globals.get('main')('/checkout/python/src', '/checkout/python/tests', '/checkout/examples', '/checkout/test');
