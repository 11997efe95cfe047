(function () {
  'use strict';
  // The mark nearest to the pointer is chosen, not the topmost one: in a crowd, marks overlap.
  var tip = document.getElementById('tip'), maxDistance = 22;  // pixels
  function marksAndRows(run) { return document.querySelectorAll('[data-run="' + run + '"]'); }
  function hide() {
    tip.style.display = 'none';
    document.querySelectorAll('.on').forEach(function (element) { element.classList.remove('on'); });
  }
  function show(mark) {
    hide();
    var run = mark.dataset.run, row = document.querySelector('tr[data-run="' + run + '"]');
    marksAndRows(run).forEach(function (element) { element.classList.add('on'); });
    tip.textContent = '';
    row.querySelectorAll('td[data-tip]').forEach(function (cell) {
      if (!cell.textContent) return;
      var label = cell.dataset.tip, line = document.createElement(label ? 'span' : 'b');
      line.textContent = label ? label + ': ' + cell.textContent : cell.textContent;
      tip.appendChild(line);
    });
    tip.style.display = 'block';
    var box = mark.getBoundingClientRect(), width = document.documentElement.clientWidth;
    var left = Math.max(4, Math.min(box.right + 8, width - tip.offsetWidth - 4));
    var top = box.top - tip.offsetHeight - 8;
    tip.style.left = left + 'px';
    tip.style.top = (top < 4 ? box.bottom + 8 : top) + 'px';
  }
  function nearest(figure, event) {
    var best = null, smallest = maxDistance;
    figure.querySelectorAll('.run').forEach(function (mark) {
      var box = mark.getBoundingClientRect();
      var x = (box.left + box.right) / 2, y = (box.top + box.bottom) / 2;
      var distance = Math.hypot(x - event.clientX, y - event.clientY);
      if (distance < smallest) { smallest = distance; best = mark; }
    });
    return best;
  }
  function onPointer(event) {
    var mark = nearest(event.currentTarget, event);
    if (mark) show(mark); else hide();
  }
  document.querySelectorAll('.figures svg').forEach(function (figure) {
    figure.addEventListener('mousemove', onPointer);
    figure.addEventListener('mouseover', onPointer);
    figure.addEventListener('click', onPointer);
    figure.addEventListener('mouseleave', hide);
  });
  document.addEventListener('click', function (event) { if (!event.target.closest('.figures svg')) hide(); });
  document.querySelectorAll('.runs').forEach(function (group) {
    var marks = Array.from(group.querySelectorAll('.run')), at = 0;
    group.addEventListener('focus', function () {
      if (marks.length && group.matches(':focus-visible')) show(marks[at]);
    });
    group.addEventListener('blur', hide);
    group.addEventListener('keydown', function (event) {
      var step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === 'Escape') hide();
      if (!step || !marks.length) return;
      event.preventDefault();
      at = (at + step + marks.length) % marks.length;
      show(marks[at]);
    });
  });
  document.getElementById('download').addEventListener('click', function () {
    var link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([document.getElementById('numbers').textContent]));
    link.download = 'report.json';
    link.click();
  });
})();
