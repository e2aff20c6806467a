use strict;
use warnings;

my @scores = (3, 9, 4);
my ($best, $sum) = (0, 0);

for my $score (@scores) {
    $sum += $score;
    $best = $score if $score > $best;
}

my $mean = @scores ? $sum / @scores : 0;
printf "best %d, mean %.1f\n", $best, $mean;

sub grade {
    my $points = shift;
    return 'good' unless $points < 5;
    return 'poor';
}
print grade($best), "\n";
