// One call of gRPC's own client for Node: SCENE TARGET PROTO_DIRECTORY. Prints what came of it as JSON.
'use strict';

const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const [scene, target, protos] = process.argv.slice(2);
const described = loader.loadSync(['ollama_proxy.proto', 'grpc/health/v1/health.proto'], {
  includeDirs: [protos],
  keepCase: true,
  enums: String,
  longs: Number,
  oneofs: true,
});
const root = grpc.loadPackageDefinition(described);
const credentials = grpc.credentials.createInsecure();
const options = {'grpc.enable_http_proxy': 0, 'grpc.enable_retries': 0};
const router = new root.ollama_proxy.OllamaProxy(target, credentials, options);
const health = new root.grpc.health.v1.Health(target, credentials, options);
const HI = {prompt: 'hi', model: 'fake:latest'};
const soon = () => ({deadline: Date.now() + 20000});

// A call of one answer, with its metadata and its status.
function unary(client, method, request, how = soon()) {
  return new Promise(resolve => {
    const told = {};
    const call = client[method](request, how, (error, answer) => {
      told.answer = answer;
      told.code = error ? error.code : grpc.status.OK;
      told.details = error?.details;
    });
    call.on('metadata', metadata => { told.head = metadata.getMap(); });
    call.on('status', () => setImmediate(resolve, told));
  });
}

// A call of several; `heard` is told of each and may cancel it.
function stream(method, request, how = soon(), heard = () => {}) {
  return new Promise(resolve => {
    const told = {answers: []};
    const call = router[method](request, how);
    call.on('metadata', metadata => { told.head = metadata.getMap(); });
    call.on('data', answer => {
      told.answers.push(answer);
      heard(call);
    });
    call.on('error', () => {}); // its status tells the same
    call.on('status', status => {
      told.code = status.code;
      told.details = status.details;
      setImmediate(resolve, told);
    });
  });
}

const SCENES = {
  generate: () => unary(router, 'Generate', HI),
  stream: () => stream('GenerateStream', HI),
  chat: () => stream('ChatStream', {model: HI.model, messages: [{role: 'user', content: 'hi'}]}),
  deadline: () => unary(router, 'Generate', HI, {deadline: Date.now() + 500}),
  cancel: () => stream('GenerateStream', HI, soon(), call => call.cancel()),
  unknown: () => unary(router, 'Generate', {...HI, model: 'nothing:1b'}),
  backends: () => unary(router, 'ListBackends', {}),
  health: () => unary(health, 'Check', {service: ''}),
  stranger: () => unary(health, 'Check', {service: 'nobody'}),
};

SCENES[scene]().then(told => {
  router.close();
  health.close();
  console.log(JSON.stringify(told));
});
