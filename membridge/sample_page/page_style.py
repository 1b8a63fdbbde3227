"""The page's style sheet, part of the page so that it needs no other file."""

STYLE = """
:root { color-scheme: light dark; --paper: #f5f6f8; --card: #fff; --ink: #1b2330; --soft: #667085; --line: #e3e6eb;
  --user: #eef3fb; --answer: #e9f6ee; --system: #f3f1f8; --bad: #b42318; --bad-paper: #fdecea; --good: #12713d;
  --accent: #2759c4; --c0: #2759c4; --c1: #c2570c; --c2: #0f8a6d; --c3: #9a3fb5; --c4: #a98a04; --c5: #c2336b; }
@media (prefers-color-scheme: dark) { :root { --paper: #12151a; --card: #1b2027; --ink: #e6e9ee; --soft: #98a2b3;
  --line: #2c333d; --user: #1f2a3c; --answer: #18301f; --system: #262233; --bad: #ff8a7e; --bad-paper: #3a1d1b;
  --good: #6fd39b; --accent: #8fb2ff; --c0: #6f9bff; --c1: #f0924f; --c2: #3fc6a4; --c3: #d083e8; --c4: #d9bd3f;
  --c5: #f0709f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "Liberation Sans", sans-serif; }
main, .top { max-width: 1180px; margin: 0 auto; padding: 0 20px; }
.top { padding-top: 28px; }
h1 { font-size: 26px; margin: 0; } h2 { font: 600 16px/1.4 ui-monospace, "Liberation Mono", monospace; margin: 0;
  overflow-wrap: anywhere; } h3 { font-size: 14px; margin: 0 0 8px; }
.facts { color: var(--soft); font-size: 13px; font-weight: 400; margin: 2px 0 0; display: flex; flex-wrap: wrap;
  gap: 2px 16px; overflow-wrap: anywhere; } .facts i { color: var(--soft); opacity: .8; font-style: normal; }
h3 .facts { display: inline; margin-left: 6px; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 18px 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 10px 18px;
  min-width: 110px;
  color: var(--soft); font-size: 13px; } .tile b { display: block; font-size: 24px; line-height: 1.2;
  color: var(--ink); }
.tile.bad b { color: var(--bad); } .tile.good b { color: var(--good); }
.note { color: var(--soft); } ul { margin: 6px 0; padding-left: 20px; } li { overflow-wrap: anywhere; }
li b { color: var(--bad); } a { color: var(--accent); } label { color: var(--soft); font-size: 13px; }
summary { cursor: pointer; font-weight: 600; font-size: 14px; }
.sample { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 18px 20px;
  margin: 20px 0; }
.sample.wrong { border-left: 5px solid var(--bad); }
.sample > header { display: flex; flex-wrap: wrap; align-items: center; gap: 4px 10px; margin-bottom: 12px; }
.sample > header .facts { width: 100%; }
body:has(#only-wrong:checked) .sample.right { display: none; }
.badge { background: var(--user); color: var(--accent); border-radius: 20px; padding: 1px 10px; font-size: 12px;
  font-weight: 600; } .badge.bad { background: var(--bad-paper); color: var(--bad); }
.problem { background: var(--bad-paper); color: var(--bad); border-radius: 8px; padding: 8px 12px; margin: 8px 0;
  overflow-wrap: anywhere; font-size: 14px; } .problem b { margin-right: 6px; }
.medium { margin-bottom: 16px; }
.strip { display: flex; flex-wrap: wrap; gap: 10px 8px; } .scene, .pictures { display: flex; flex-wrap: wrap;
  gap: 4px; }
.scene.cut { display: block; border-top: 4px solid var(--scene); padding-top: 5px; max-width: 100%; }
.scene.cut .times { color: var(--scene); font-size: 12px; font-weight: 600; }
.c0 { --scene: var(--c0); } .c1 { --scene: var(--c1); } .c2 { --scene: var(--c2); } .c3 { --scene: var(--c3); }
.c4 { --scene: var(--c4); } .c5 { --scene: var(--c5); }
figure { margin: 0; } figure img { display: block; height: 84px; max-width: 100%; border-radius: 4px;
  background: #000; }
.single img { height: 168px; }
figcaption { font-size: 11px; color: var(--soft); text-align: center; font-variant-numeric: tabular-nums; }
.curve { display: flex; gap: 6px; margin-top: 10px; } .curve svg { flex: 1; height: 56px; background: var(--paper);
  border-radius: 6px; overflow: hidden; } .curve polyline { fill: none; stroke: var(--accent); stroke-width: 1.6; }
.curve line { stroke: var(--bad); stroke-width: 1.2; stroke-dasharray: 4 3; opacity: .75; }
.curve polyline, .curve line { vector-effect: non-scaling-stroke; }
.scale { display: flex; flex-direction: column; justify-content: space-between; font-size: 11px; color: var(--soft); }
.legend { font-size: 11px; color: var(--soft); }
.talks { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: 12px; }
.talks > details { grid-column: 1 / -1; } details .talks { margin-top: 8px; }
.talk { border: 1px solid var(--line); border-radius: 10px; padding: 10px 12px; min-width: 0; }
.talk > .facts { margin-bottom: 6px; align-items: center; }
.turn { border-radius: 8px; padding: 6px 10px; margin-top: 6px; background: var(--user); display: flex; gap: 8px; }
.turn b { flex: 0 0 62px; font-size: 12px; line-height: 22px; color: var(--soft); font-weight: 600; }
.turn p { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; min-width: 0;
  max-height: 220px; overflow-y: auto; }
.turn.assistant { background: var(--answer); } .turn.system, .turn.other { background: var(--system); }
.mark { background: var(--accent); color: var(--card); border-radius: 4px; padding: 0 6px; font-size: 12px;
  font-weight: 600; margin-right: 6px; }
.options { margin-top: 8px; display: flex; flex-wrap: wrap; gap: 4px; align-items: baseline; }
  .options b { font-size: 12px;
  color: var(--soft); margin-right: 4px; } .option { border: 1px solid var(--line); border-radius: 20px;
  padding: 0 9px;
  font-size: 13px; overflow-wrap: anywhere; } .option.chosen { border-color: var(--good); color: var(--good);
  font-weight: 600; }
.warning { color: var(--bad); } .more { color: var(--soft); font-size: 13px; margin: 8px 0 0; }
pre { background: var(--paper); border-radius: 8px; padding: 10px 12px; white-space: pre-wrap;
  overflow-wrap: anywhere;
  font-size: 13px; max-height: 300px; overflow: auto; margin: 6px 0 0; }
@media print { .sample { break-inside: avoid; } }
"""
